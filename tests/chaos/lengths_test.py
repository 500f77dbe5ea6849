import random
from collections import Counter

from tests.chaos.lengths import CRITICAL, distance, law


def drawn(rng: random.Random, end: float, longest: int) -> int:
    return next((n for n in range(1, longest) if rng.random() < end), longest)


def test_the_law_is_that_of_the_fake_engine_and_a_loss_of_long_ones_is_seen() -> None:
    rng = random.Random(0)
    lengths = [drawn(rng, 0.1, 40) for _ in range(4000)]
    assert distance(Counter(lengths), law(0.1, 40)) < CRITICAL
    kept = [n for n in lengths if n < 25 or rng.random() < 0.5]
    assert distance(Counter(kept), law(0.1, 40)) > CRITICAL
