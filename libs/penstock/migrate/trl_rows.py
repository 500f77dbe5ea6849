"""TRL's trainers of rows: DPO, KTO, SFT and reward models."""

from penstock.migrate.carrying import Given, Made, real, whole
from penstock.migrate.trl_rollouts import DEVICES, reference

LOSSES = {
    "exo_pair": "exo",
    "nca_pair": "nca",
    "bco_pair": "bco",
    "sppo_hard": "sppo",
    "sigmoid_norm": "length_normalised",
    **{
        name: name
        for name in (
            *("sigmoid", "hinge", "ipo", "robust", "aot", "aot_unpaired", "apo_zero", "apo_down"),
            *("discopop", "simpo", "orpo"),
        )
    },
}
"""By TRL's names."""


def dpo(given: Given, made: Made) -> None:
    """The arguments of DPOTrainer; `sft` among the losses is a likelihood term."""
    _pairs(given, made, 2)
    made.set("algorithm.name", "dpo")
    made.set("algorithm.preference.source", "dataset")
    names = [str(name) for name in given.take_list("loss_type")] or ["sigmoid"]
    weights = [real(weight) for weight in given.take_list("loss_weights")] or [1.0] * len(names)
    alpha = given.take("rpo_alpha")
    terms = []
    for name, weight in zip(names, weights, strict=False):
        if name == "sft":
            alpha = weight
        elif name in LOSSES:
            terms.append((LOSSES[name], weight))
        else:
            made.left("loss_type", f"{name!r} is not here; there are {', '.join(sorted(set(LOSSES.values())))}")
    beta, smoothing = real(given.take("beta", 0.1)), real(given.take("label_smoothing", 0.0))
    tau = real(given.take("discopop_tau", 0.05))
    made.set("algorithm.preference", made.get("algorithm.preference") | _term(terms, 0, beta, smoothing, tau))
    more = [_term(terms, i, beta, smoothing, tau) for i in range(1, len(terms))]
    made.set("algorithm.preference.more", more or None)
    if smoothing and not any(name in _SMOOTHED for name, _ in terms):
        made.left("label_smoothing", f"only {', '.join(_SMOOTHED)} have it")
    made.set("algorithm.preference.nll_coefficient", None if alpha is None else real(alpha))
    _divergence(given, made)
    made.set("algorithm.preference.length_share", given.take("ld_alpha"))
    made.set("algorithm.preference.wpo", given.take("use_weighting", False) or None)
    if given.take("reference_free", False):
        made.left("reference_free", "use a loss without a reference: simpo, orpo")
    reference(given, made, True)


_SMOOTHED = ("sigmoid", "robust", "exo", "aot", "aot_unpaired")


def _term(terms: list[tuple[str, float]], at: int, beta: float, smoothing: float, tau: float) -> dict[str, object]:
    name, weight = terms[at] if terms else ("sigmoid", 1.0)
    term: dict[str, object] = {"loss": name, "beta": beta}
    if weight != 1:
        term["weight"] = weight
    if smoothing and name in _SMOOTHED:
        term["label_smoothing"] = smoothing
    if name == "discopop":
        term["tau"] = tau
    return term


def _divergence(given: Given, made: Made) -> None:
    kind = str(given.take("f_divergence_type", "reverse_kl")).rpartition(".")[2].lower()
    order = real(given.take("f_alpha_divergence_coef", 1.0))
    ours = {"js_divergence": "js", "alpha_divergence": "alpha", "forward_kl": "forward_kl", "reverse_kl": "reverse_kl"}
    if kind not in ours:
        made.left("f_divergence_type", f"{kind!r} is none of {', '.join(ours)}")
    elif ours[kind] != "reverse_kl":
        made.set("algorithm.preference.divergence", ours[kind])
        made.set("algorithm.preference.divergence_order", order if ours[kind] == "alpha" else None)


def kto(given: Given, made: Made) -> None:
    """The arguments of KTOTrainer: rows with a label, answers one by one."""
    _pairs(given, made, 1)
    made.set("algorithm.name", "dpo")
    made.set("algorithm.preference", {"source": "dataset", "loss": "kto", "beta": real(given.take("beta", 0.1))})
    for key in ("desirable_weight", "undesirable_weight"):
        if (weight := given.take(key, 1.0)) != 1:
            made.left(key, f"liked and disliked answers weigh alike here, not {weight:g}")
    if (loss := given.take("loss_type", "kto")) != "kto":
        made.left("loss_type", f"{loss!r} of single answers is not here")
    reference(given, made, True)


def sft(given: Given, made: Made) -> None:
    """The arguments of SFTTrainer: token mean over the batch, answers alone where a conversation has them."""
    _pairs(given, made, 1)
    made.set("algorithm.name", "sft")
    made.set("algorithm.loss.normalisation", "token")
    assistants, completions = given.take("assistant_only_loss", False), given.take("completion_only_loss")
    if not assistants and completions is not True:
        made.set("data.train_on", ["all"])
        if completions is None:
            made.left("completion_only_loss", "rows with a prompt and a completion: leave data.train_on out")
    if given.take("loss_type", "nll") != "nll":
        made.left("loss_type", "the loss is the negative log-likelihood")
    if (field := given.take("dataset_text_field", "text")) != "text":
        made.left(
            "dataset_text_field", f"plain texts are no rows; put {field!r} into messages, or prompt and completion"
        )
    for key in ("eos_token", "pad_token"):
        if given.take(key) is not None:
            made.left(key, "tokens are those of model.path")


def reward(given: Given, made: Made) -> None:
    """The arguments of RewardTrainer."""
    _pairs(given, made, 2)
    made.set("algorithm.name", "reward_model")
    made.set("algorithm.reward_model.centring", given.take("center_rewards_coefficient"))


def _pairs(given: Given, made: Made, size: int) -> None:
    device = whole(given.take("per_device_train_batch_size", 8))
    gathered = whole(given.take("gradient_accumulation_steps", 1))
    made.set("algorithm.groups_per_step", device * gathered)
    made.set("algorithm.group_size", size)
    made.left("per_device_train_batch_size", DEVICES)
