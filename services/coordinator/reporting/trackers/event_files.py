"""Event files that `tensorboard --logdir` shows: numbers, and the recipe and samples as text."""

import functools
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.coordinator.reporting.trackers.tracker import About, Text


class TensorBoard:
    """Every life of the coordinator has a file of its own; TensorBoard shows them as one run."""

    def __init__(self, folder: pathlib.Path, about: About) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._make: Callable[[], Any] = functools.partial(EventFileWriter, str(folder))
        self._writer: Any = self._make()
        head = {"id": about.id, "tags": list(about.tags), **about.links}
        self._add(0, [_text("run", _block(head)), _text("recipe", _block(about.recipe))])

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        self._add(step, _scalars(numbers))

    def evaluation(self, step: int, numbers: Mapping[str, float], texts: Sequence[Text]) -> None:
        shown = [_text("eval/sample_texts", _table(texts))] if texts else []
        self._add(step, [*_scalars(numbers), *shown])

    def end(self, state: str) -> None:
        self._add(0, [_text("state", state)])
        self._writer.close()

    def _add(self, step: int, values: Sequence[Any]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        self._writer = self._writer or self._make()
        try:
            summary = summary_pb2.Summary(value=values)
            self._writer.add_event(event_pb2.Event(step=step, wall_time=time.time(), summary=summary))
            self._writer.flush()
        except OSError:
            self._writer = None  # its thread is dead: the next step gets a file of its own
            raise


def _scalars(numbers: Mapping[str, float]) -> list[Any]:
    from tensorboard.compat.proto import summary_pb2

    return [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]


def _text(tag: str, markdown: str) -> Any:
    """A value of TensorBoard's text plugin: a tensor of one string."""
    from tensorboard.compat.proto import summary_pb2, tensor_pb2, types_pb2

    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[markdown.encode()])
    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
    metadata = summary_pb2.SummaryMetadata(plugin_data=plugin)
    return summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _block(value: Mapping[str, Any]) -> str:
    return "\n".join(f"    {line}" for line in json.dumps(value, indent=2).splitlines())


def _table(texts: Sequence[Text]) -> str:
    head = Text.columns()
    rows = [[json.dumps(getattr(text, name), ensure_ascii=False) for name in head] for text in texts]
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)
