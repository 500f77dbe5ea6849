"""verl's rollout correction: weights, rejection, and the two ways of using them."""

from typing import Any

from penstock.migrate.carrying import Given, Made, real

PREFIX = "algorithm.rollout_correction"
FORMS = {
    **{f"token_{k}": f"token_{k}" for k in ("k1", "k2", "k3")},
    **{f"seq_sum_{k}": f"sum_{k}" for k in ("k1", "k2", "k3")},
    **{f"seq_mean_{k}": f"mean_{k}" for k in ("k1", "k2", "k3")},
    **{f"seq_max_{k}": f"max_{k}" for k in ("k2", "k3")},
}
"""Of rejection, by verl's names."""


def correction(given: Given, made: Made) -> None:
    """Sets the correction, its bounds and the rejection, and whom the ratio is taken against."""
    level, bound = given.take(f"{PREFIX}.rollout_is"), given.take(f"{PREFIX}.rollout_is_threshold", 2.0)
    normalises = given.take(f"{PREFIX}.rollout_is_batch_normalize", False)
    bypass, kind = given.take(f"{PREFIX}.bypass_mode", False), given.take(f"{PREFIX}.loss_type", "ppo_clip")
    old = given.take_first("actor_rollout_ref.actor.tis_imp_ratio_cap", default=0)
    given.take(f"{PREFIX}.debug_rollout_actor_probs")
    made.set("staleness.max_versions", 0)
    if made.get("algorithm.loss.name") == "dppo":
        made.set("algorithm.loss.correction", "none")
    elif bypass and kind == "ppo_clip":
        made.set("algorithm.loss.proximal", "behaviour")
        made.set("algorithm.loss.correction", "none")
    elif old and old > 0:
        made.set("algorithm.loss.correction", "tis")
        made.set("algorithm.loss.correction_cap", real(old))
    else:
        if bypass:
            made.set("algorithm.loss.name", "reinforce")
            for key in ("clip_low", "clip_high", "dual_clip"):
                made.recipe["algorithm"]["loss"].pop(key, None)
        _weights(level, bound, normalises, made)
    _rejection(given, made, bool(bypass) and kind == "ppo_clip")


def _weights(level: Any, bound: Any, normalises: bool, made: Made) -> None:
    if level not in ("token", "sequence"):
        made.set("algorithm.loss.correction", "none")
        return
    low, high = bounds(bound)
    suffix = "" if level == "token" else "_sequence"
    if low is None:
        made.set("algorithm.loss.correction", f"tis{suffix}")
        made.set("algorithm.loss.correction_cap", high)
    else:
        made.set("algorithm.loss.correction", f"icepop{suffix}")
        made.set("algorithm.loss.correction_low", low)
        made.set("algorithm.loss.correction_high", high)
    if normalises:
        made.set("algorithm.loss.correction_mean_one", "tokens" if level == "token" else "answers")


def _rejection(given: Given, made: Made, behaviour: bool) -> None:
    forms = [form.strip() for form in str(given.take(f"{PREFIX}.rollout_rs") or "").split(",") if form.strip()]
    limits = str(given.take(f"{PREFIX}.rollout_rs_threshold") or "").split(",")
    if not forms:
        return
    if behaviour:
        made.left(f"{PREFIX}.rollout_rs", "with bypass_mode engine and learner are one here, so nothing is rejected")
        return
    if forms[0] not in FORMS or not limits[0]:
        made.left(f"{PREFIX}.rollout_rs", f"{forms[0]!r} is none of {', '.join(FORMS)} with a threshold")
        return
    if len(forms) > 1:
        made.left(f"{PREFIX}.rollout_rs", f"one form at a time; {forms[0]} alone was carried")
    low, high = bounds(limits[0])
    made.set("algorithm.loss.rejection.by", FORMS[forms[0]])
    made.set("algorithm.loss.rejection.high", high)
    if forms[0].endswith("k1"):
        made.set("algorithm.loss.rejection.low", low)
    made.left(
        f"{PREFIX}.rollout_rs",
        "rejected tokens have weight 0 and still count where the loss is normalised; there they do not",
    )


def bounds(words: Any) -> tuple[float | None, float]:
    """`2.0` is an upper bound, `0.5_2.0` a lower and an upper one."""
    low, line, high = str(words).partition("_")
    return (float(low), float(high)) if line else (None, float(low))
