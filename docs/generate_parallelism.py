"""Writes the planner's tables into docs/parallelism.md, so that the page's numbers are those of `penstock config`.

    python docs/generate_parallelism.py        # after a change of libs/penstock/memory_plan

Everything between the two markers is replaced; `parallelism_page_test.py` fails where the committed page is not the one
that this makes.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from penstock import memory_plan
from penstock.memory_plan import GIB, PlannedLayout, Shapes, read_shapes

HERE = pathlib.Path(__file__).parent
MODELS = HERE.parent / "libs" / "penstock" / "memory_plan" / "testdata"
BEGIN, END = "<!-- planner: begin -->\n", "<!-- planner: end -->\n"

# (model, title, [(tensor, pipeline, context, data, tokens per micro-batch, recompute, further fields of its layout)])
FULLY_SHARDED = {"fully_sharded": True}
SELECTIVE = {"selective": True}
TABLES = (
    (
        "qwen3-0.6b",
        "Qwen3-0.6B",
        [(1, 1, 1, 1, 8192, 0), (1, 1, 1, 1, 8192, 1), (1, 1, 1, 1, 32768, 1), (1, 1, 1, 8, 8192, 0)],
    ),
    (
        "qwen3-8b",
        "Qwen3-8B",
        [
            (1, 1, 1, 8, 4096, 1),
            (2, 1, 1, 4, 8192, 1),
            (4, 1, 1, 1, 8192, 1),
            (4, 1, 1, 2, 8192, 0),
            (4, 1, 1, 2, 8192, 0, SELECTIVE),
            (4, 1, 1, 2, 8192, 1),
            (4, 1, 2, 1, 32768, 1),
            (8, 1, 1, 1, 32768, 1),
            (1, 1, 1, 2, 8192, 1, FULLY_SHARDED),
            (1, 1, 1, 8, 8192, 1, FULLY_SHARDED),
        ],
    ),
    (
        "qwen3-32b",
        "Qwen3-32B",
        [
            (8, 1, 1, 1, 8192, 1),
            (8, 1, 1, 2, 8192, 1),
            (8, 1, 1, 4, 8192, 1),
            (8, 2, 1, 2, 8192, 1),
            (8, 2, 2, 1, 32768, 1),
            (8, 2, 2, 2, 32768, 1),
            (1, 1, 1, 16, 8192, 1, FULLY_SHARDED),
        ],
    ),
    (
        "qwen3-30b-a3b",
        "Qwen3-30B-A3B, a mixture of experts",
        [
            (1, 1, 1, 8, 8192, 1, {"expert": 8}),
            (4, 1, 1, 2, 8192, 1, {"expert": 8}),
            (2, 1, 1, 8, 8192, 1, {"expert": 16}),
            (1, 1, 1, 16, 8192, 1, {"expert": 16}),
            (4, 1, 2, 2, 32768, 1, {"expert": 16}),
        ],
    ),
    (
        "llama3-70b",
        "Llama-3-70B",
        [
            (8, 2, 1, 1, 8192, 1),
            (8, 2, 1, 2, 8192, 1),
            (8, 4, 1, 1, 8192, 1),
            (8, 4, 1, 2, 8192, 1),
            (8, 4, 2, 1, 32768, 1),
            (8, 4, 2, 2, 32768, 1),
        ],
    ),
)
HEADER = (
    "| TP × PP × CP × DP | ranks | tokens | recompute "
    "| weights | gradients | optimizer | activations | head | in all |\n"
    "|---|---|---|---|---|---|---|---|---|---|\n"
)


def page() -> str:
    """The committed page with the planner's part made anew."""
    text = (HERE / "parallelism.md").read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + "".join(_tables()) + END + after


def _tables() -> Iterator[str]:
    for name, title, layouts in TABLES:
        shapes = read_shapes(MODELS / name)
        assert shapes is not None
        yield f"\n### {title}\n\n{shapes.parameters / 1e9:.2f} billion parameters, bfloat16.\n\n{HEADER}"
        for layout in layouts:
            yield _row(shapes, *layout)
    yield "\n"


def _row(
    shapes: Shapes,
    tensor: int,
    pipeline: int,
    context: int,
    data: int,
    tokens: int,
    recompute: int,
    further: dict[str, Any] | None = None,
) -> str:
    assert not shapes.indivisible(tensor, pipeline)
    layout = PlannedLayout(
        tensor, pipeline, context, data, tensor > 1, True, tokens, bool(recompute), **(further or {})
    )
    s = max(memory_plan.stages(shapes, layout), key=lambda stage: stage.total)
    sizes = (s.weights, s.gradients, s.optimizer, s.activations, s.head)
    cells = " | ".join(f"{size / GIB:.1f}" for size in sizes)
    ranks = tensor * pipeline * context * data
    kind = "full" if recompute else "selective" if layout.selective else "none"
    sizes_in_words = f"{tensor} × {pipeline} × {context} × {data}"
    if layout.expert > 1:
        sizes_in_words += f", EP {layout.expert}"
    if layout.fully_sharded:
        sizes_in_words = f"transformers × {data}"
    return f"| {sizes_in_words} | {ranks} | {tokens} | {kind} | {cells} | **{s.total / GIB:.1f}** |\n"


if __name__ == "__main__":
    (HERE / "parallelism.md").write_text(page())
