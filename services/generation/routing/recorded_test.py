"""Rows from a worker's steps to their requests: over cached prompts, chunks of prompts, updates and rejected drafts."""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.trajectories.routes import RouteShape, Rows
from services.generation.routing.recorded import ENOUGH, RecordedRoutes, Step

SHAPE, BLOCK = RouteShape(1, 1, 250), 4


@dataclass
class Request:
    """What is used of vLLM's. tokens: all so far; computed: of these, as vLLM counts them."""

    request_id: str
    tokens: list[int]
    num_prompt_tokens: int
    first: int = 0
    computed: int = 0
    ended: bool = False
    got: list[Rows] = field(default_factory=list)

    @property
    def sampling_params(self) -> Any:
        return type("Params", (), {"routed_experts_prompt_start": self.first})

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def block_hashes(self) -> list[tuple[int, ...]]:
        return [tuple(self.tokens[: BLOCK * (i + 1)]) for i in range(len(self.tokens) // BLOCK)]

    def is_finished(self) -> bool:
        return self.ended


def rows_of(tokens: list[int], weights: int) -> Rows:
    return np.array([[[(t + weights) % 250]] for t in tokens], np.uint8).reshape(-1, 1, 1)


@given(st.integers(0, 2**32))
def test_rows_follow_each_other_and_are_of_the_pass_that_drew_from_them(seed: int) -> None:
    """A small engine: requests that share prompts, in chunks, with drafts, and preempted by updates."""
    rng = random.Random(seed)
    recorded, cache, weights = RecordedRoutes(SHAPE, BLOCK, 64), set[tuple[int, ...]](), 0
    prompt = [rng.randrange(5) for _ in range(20)]
    waiting = []
    for i in range(4):
        tokens = prompt[: rng.randint(1, 20)] + [100 + i] * rng.randint(0, 2)
        waiting.append(Request(str(i), tokens, len(tokens), rng.randint(0, len(tokens))))
    running: list[Request] = []
    cached: dict[str, tuple[int, int]] = {}  # tokens that a request found in the cache, and the weights of these
    truth: dict[str, list[int]] = {r.request_id: [] for r in waiting}
    done = []
    while waiting or running:
        if waiting and rng.random() < 0.5:
            new = waiting.pop()
            hit = next((i for i, h in enumerate(new.block_hashes) if h not in cache), len(new.block_hashes))
            new.computed = min(hit, (len(new.tokens) - 1) // BLOCK) * BLOCK
            cached[new.request_id] = (new.computed, weights)
            running.append(new)
        if rng.random() < 0.1:  # an update: everything is computed again, by other weights
            weights += 50
            cache.clear()
            recorded.reset()
            for each in running:
                recorded.request_finished(each)
                each.computed = 0
                cached[each.request_id] = (0, weights)
        step, names, drafted, rows = Step([], [], b""), list[str](), {}, list[bytes]()
        for each in running:
            drafts = [rng.randrange(200) for _ in range(rng.randint(0, 2))]
            left = each.tokens[each.computed :]
            whole = rng.random() < 0.7 or len(left) == 1
            inputs = left + drafts if whole else left[: rng.randint(1, len(left) - 1)]
            drafted[each.request_id] = (whole, len(inputs) - (len(drafts) if whole else 0))
            names.append(each.request_id)
            step.starts.append(each.computed)
            rows.append(rows_of(inputs, weights).tobytes())
            step.ends.append((step.ends or [0])[-1] + len(inputs))
            known = truth[each.request_id]
            for at, token in enumerate(inputs[: len(left)], each.computed):
                if at >= len(known):
                    known += [(token + weights) % 250]
            cache |= set(each.block_hashes[: (each.computed + len(inputs[: len(left)])) // BLOCK])
        # What a cached prompt was computed by is whatever its blocks were computed by.
        recorded.step(
            Step(step.starts, step.ends, b"".join(rows)),
            names,
            {each.request_id: each for each in running},
        )
        for each in list(running):
            whole, counted = drafted[each.request_id]
            each.computed += counted
            if whole:
                each.tokens.append(rng.randrange(200))
                each.ended = len(each.tokens) > each.num_prompt_tokens + rng.randint(1, 40)
                got = recorded.take_output(each, None)
                each.got += [] if got is None else [got]
            if each.ended:
                running.remove(each)
                done.append(each)
        recorded.build_connector_meta(None, {each.request_id: each for each in running})
    for each in done:
        found = np.concatenate([*each.got, np.zeros((0, 1, 1), np.uint8)])[:, 0, 0]
        assert len(found) == len(each.tokens) - 1 - each.first
        assert all(len(part) >= ENOUGH for part in each.got[1:-1]), "a chunk's worth at once, but first and last"
        for row, token in zip(found.tolist(), each.tokens[each.first :], strict=False):
            assert row == 255 or (row - token) % 250 in {w % 250 for w in range(0, weights + 1, 50)}
            assert row != 255 or weights, "nothing was forgotten: the cache has room for all"
        hit, by = cached[each.request_id]
        for row, token in zip(found[: max(0, hit - each.first)].tolist(), each.tokens[each.first :], strict=False):
            assert row in (255, (token + by) % 250), "a cached prompt's rows are of who computed it"
    assert not recorded._requests


def test_what_was_forgotten_is_unknown() -> None:
    recorded = RecordedRoutes(SHAPE, BLOCK, 1)
    first = Request("a", list(range(12)), 12)
    recorded.step(Step([0], [12], rows_of(first.tokens, 0).tobytes()), ["a"], {"a": first})
    second = Request("b", list(range(12)), 12)
    recorded.step(Step([8], [4], rows_of(second.tokens[8:], 0).tobytes()), ["b"], {"b": second})
    second.tokens.append(7)
    rows = recorded.take_output(second, None)
    assert rows is not None and rows[:, 0, 0].tolist() == [255] * 4 + [255] * 4 + [8, 9, 10, 11]
