"""Preference losses against hand-computed values, and their gradients as weights per answer."""

import math

import pytest
import torch

from penstock.objectives import preference_losses
from penstock.objectives.preferences import Pairs, answer_weights, kto, pair_confidence, pair_importance, rank_pairs

LENGTHS = ([4.0, 2.0], [2.0, 8.0])


def pairs(
    chosen: tuple[float, ...],
    rejected: tuple[float, ...],
    chosen_reference: tuple[float, ...] = (-8.0, -3.0),
    rejected_reference: tuple[float, ...] = (-7.0, -9.0),
) -> Pairs:
    columns = (chosen, rejected, chosen_reference, rejected_reference, *LENGTHS)
    return Pairs(*(torch.tensor(c, dtype=torch.float64) for c in columns))


def logsigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


# c − r of the chosen: 2, −1; of the rejected: −1, 1. So Δ = 3, −2; Δ̄ = 2/4 + 1/2 = 1, −1/2 − 1/8 = −0.625.
MOVED = pairs((-6.0, -4.0), (-8.0, -8.0))


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("sigmoid", {"beta": 0.5}, [-logsigmoid(1.5), -logsigmoid(-1.0)]),
        (
            "sigmoid",
            {"beta": 0.5, "label_smoothing": 0.1},
            [-0.9 * logsigmoid(1.5) - 0.1 * logsigmoid(-1.5), -0.9 * logsigmoid(-1.0) - 0.1 * logsigmoid(1.0)],
        ),
        (
            "robust",
            {"beta": 0.5, "label_smoothing": 0.1},
            [
                (-0.9 * logsigmoid(1.5) + 0.1 * logsigmoid(-1.5)) / 0.8,
                (-0.9 * logsigmoid(-1.0) + 0.1 * logsigmoid(1.0)) / 0.8,
            ],
        ),
        ("hinge", {"beta": 0.5}, [0.0, 2.0]),
        ("ipo", {"beta": 0.5}, [0.0, 1.625**2]),
        ("length_normalised", {"beta": 2.0}, [-logsigmoid(2.0), -logsigmoid(-1.25)]),
        # means of log-probs: −1.5 and −4; −2 and −1
        ("simpo", {"beta": 2.0, "margin": 0.5}, [-logsigmoid(2.0 * 2.5 - 0.5), -logsigmoid(2.0 * -1.0 - 0.5)]),
    ],
)
def test_values(name: str, settings: dict[str, float], expected: list[float]) -> None:
    assert preference_losses.make(name, **settings)(MOVED).tolist() == pytest.approx(expected)


def test_orpo_adds_the_likelihood_to_the_odds_ratio() -> None:
    def odds(p: float) -> float:
        return math.log(math.exp(p) / (1 - math.exp(p)))

    expected = [
        1.5 - 0.2 * logsigmoid(odds(-1.5) - odds(-4.0)),
        2.0 - 0.2 * logsigmoid(odds(-2.0) - odds(-1.0)),
    ]
    assert preference_losses.make("orpo", beta=0.2)(MOVED).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", [n for n in preference_losses.names() if n not in ("simpo", "orpo")])
def test_a_step_from_the_reference_itself_starts_where_no_preference_is(name: str) -> None:
    """Δ = 0: ln 2 for the logistic ones (DPO's first reported loss), 1 for hinge, (1/2β)² for ipo, …"""
    at_reference = pairs((-8.0, -3.0), (-7.0, -9.0))
    ln2 = math.log(2)
    others = {"hinge": 1.0, "ipo": 25.0, "sppo": 50.0, "apo_zero": 1.0, "apo_down": 1.0}
    others |= {"nca": 2 * ln2, "bco": 2 * ln2, "discopop": (ln2 + 1) / 2}
    others["exo"] = -ln2 - 0.5 * (math.log(0.999) + math.log(0.001))
    expected = others.get(name, ln2)
    assert preference_losses.make(name, beta=0.1)(at_reference).tolist() == pytest.approx([expected] * 2)


def test_answer_weights_are_the_gradient_of_the_mean_loss() -> None:
    """For the sigmoid: ∓β σ(−βΔ) / P for chosen and rejected."""
    loss = preference_losses.make("sigmoid", beta=0.5)
    answers = torch.stack([MOVED.chosen, MOVED.rejected], 1).flatten()  # chosen, rejected, chosen, rejected

    def losses(current: torch.Tensor) -> torch.Tensor:
        return loss(MOVED._replace(chosen=current[0::2], rejected=current[1::2]))

    values, weights = answer_weights(losses, answers)
    push = [0.5 / (1 + math.exp(1.5)) / 2, 0.5 / (1 + math.exp(-1.0)) / 2]
    assert weights.tolist() == pytest.approx([-push[0], push[0], -push[1], push[1]])
    assert values.tolist() == pytest.approx([-logsigmoid(1.5), -logsigmoid(-1.0)])


@pytest.mark.parametrize("name", [n for n in preference_losses.names() if n != "bco"])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    loss = preference_losses.make(name)

    def of(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return loss(MOVED._replace(chosen=chosen, rejected=rejected))

    leaves = [x.clone().requires_grad_() for x in (MOVED.chosen, MOVED.rejected)]
    assert torch.autograd.gradcheck(of, leaves)


def test_kto_pushes_liked_answers_up_and_the_others_down_from_the_baseline() -> None:
    current, reference = torch.tensor([-6.0, -4.0]).double(), torch.tensor([-8.0, -3.0]).double()
    liked = torch.tensor([True, False])
    values = kto(current, reference, liked, 1.0, beta=0.5)
    assert values.tolist() == pytest.approx([1 - 1 / (1 + math.exp(-0.5)), 1 - 1 / (1 + math.exp(-1.0))])
    _, weights = answer_weights(lambda c: kto(c, reference, liked, 1.0, beta=0.5), current)
    assert weights[0] < 0 < weights[1]
    assert kto(current, reference, liked, -3.0).tolist() == kto(current, reference, liked, 0.0).tolist()


def test_a_stale_pair_counts_by_how_likely_it_is_now() -> None:
    """Pair 0: three tokens in all that became likelier by 0.6 together; pair 1: beyond the cap; pair 2: rarer."""
    behaviour = torch.tensor([-3.0, -2.0, -9.0, -9.0, -1.0, -1.0], dtype=torch.float64)
    current = torch.tensor([-2.5, -1.9, -1.0, -1.0, -2.0, -2.0], dtype=torch.float64, requires_grad=True)
    weight = pair_importance(current, behaviour, torch.tensor([1.0, 2.0, 2.0, 2.0, 1.0, 1.0]), 2.0)
    assert weight.tolist() == pytest.approx([math.exp(0.2), 2.0, math.exp(-1.0)]) and not weight.requires_grad


def test_pairs_are_best_with_worst_and_equal_rewards_make_none() -> None:
    rewards = [0.5, 1.0, 0.0, 0.8, 0.1]
    assert rank_pairs(rewards, 1, 0.0) == [(1, 2)]
    assert rank_pairs(rewards, 2, 0.0) == [(1, 2), (3, 4)]
    assert rank_pairs(rewards, 9, 0.0) == [(1, 2), (3, 4)], "no member is in two pairs"
    assert rank_pairs(rewards, 2, 0.75) == [(1, 2)]
    assert rank_pairs([1.0, 1.0, 0.0, 0.0], 2, 0.0) == [(0, 3), (1, 2)]
    assert rank_pairs([0.3] * 4, 2, 0.0) == [] and rank_pairs([1.0], 1, 0.0) == []


def test_wpo_weighs_a_pair_by_how_near_its_answers_are_and_never_above_one() -> None:
    current = torch.tensor([-2.0, -4.0, -1.0, -1.0], dtype=torch.float64)
    collision = torch.tensor([-1.0, -2.0, -3.0, -3.0], dtype=torch.float64)
    weight = pair_confidence(current, collision, torch.tensor([2.0, 4.0, 2.0, 2.0]))
    torch.testing.assert_close(weight, torch.tensor([math.exp(-1 / 2 - 2 / 4), 1.0], dtype=torch.float64))
