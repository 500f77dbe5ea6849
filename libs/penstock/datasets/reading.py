"""The rows of a data set, whatever it is kept in: JSON Lines, parquet, or a directory of Hugging Face datasets.

    rows.jsonl                           one JSON object a line
    rows.parquet, DIR/train-*.parquet    one table, or several of the same columns, in the order of their names
    DIR                                  what `save_to_disk` wrote, or a folder with the parquet files of one split

A row becomes a mapping of JSON values: it travels with its task to the environment that scores it.
"""

import dataclasses
import glob
import json
import pathlib
import re
from typing import Any

Row = dict[str, Any]


class DatasetError(ValueError):
    """A data set that cannot be used. The text names the file, the line and the field."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """At least one row. `unit`: what one is called in the file: line or row."""

    rows: list[Row]
    unit: str


def read(path: pathlib.Path) -> Rows:
    """Raises DatasetError."""
    files = sorted(pathlib.Path(p) for p in glob.glob(str(path))) if glob.has_magic(str(path)) else [path]
    if not files:
        raise DatasetError(f"{path}: no file matches")
    if path.is_dir():
        found = Rows(_directory(path), "row")
    elif all(file.suffix == ".parquet" for file in files):
        found = Rows([row for file in files for row in _parquet(file)], "row")
    else:
        found = Rows([row for file in files for row in _json_lines(file)], "line")
    if not found.rows:
        raise DatasetError(f"{path}: has no rows")
    return found


def _json_lines(path: pathlib.Path) -> list[Row]:
    rows = []
    try:
        with path.open(encoding="utf-8-sig") as file:  # a byte order mark is no part of the first row
            for number, line in enumerate(file, 1):
                if line.strip():
                    rows.append(_json_row(line, f"{path}, line {number}"))
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: {error}") from error
    return rows


def _json_row(line: str, place: str) -> Row:
    """A row of strict JSON. Raises DatasetError for what another reader would take otherwise, or not at all."""
    try:
        row = json.loads(line, parse_constant=_no_number, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise DatasetError(f"{place}: {why}") from error
    if not isinstance(row, dict):
        raise DatasetError(f"{place}: must be a JSON object, is a {type(row).__name__}")
    if "\\u" in line:
        for key, value in row.items():
            try:
                json.dumps([key, value], ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise DatasetError(
                    f"{place}: {key!a} has half a surrogate pair, {error.object[error.start]!a}, which is no character"
                ) from error
    return row


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _once(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} is there twice")
    return row


def _directory(path: pathlib.Path) -> list[Row]:
    if (path / "dataset_dict.json").is_file():
        raise DatasetError(f"{path}: holds several splits; name one: {', '.join(str(p) for p in _folders(path))}")
    if (path / "state.json").is_file():
        try:
            files = [path / each["filename"] for each in json.loads((path / "state.json").read_text())["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{path}/state.json: cannot be read: {error!r}") from error
        return [row for file in files for row in _arrow(file)]
    files = sorted(path.glob("*.parquet"))
    splits = sorted({re.sub(r"-\d+-of-\d+$", "", file.stem) for file in files})
    if len(splits) > 1:
        named = ", ".join(f"{path}/{split}-*.parquet" for split in splits)
        raise DatasetError(f"{path}: holds several splits; name one: {named}")
    if not files:
        below = [p for p in _folders(path) if list(p.glob("*.parquet")) or (p / "state.json").is_file()]
        hint = f"; did you mean {below[0]}?" if below else ""
        raise DatasetError(f"{path}: holds neither parquet files nor what datasets.save_to_disk writes{hint}")
    return [row for file in files for row in _parquet(file)]


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in path.iterdir() if p.is_dir())


def _parquet(path: pathlib.Path) -> list[Row]:
    import pyarrow.parquet

    return _rows(path, lambda: pyarrow.parquet.ParquetFile(path).read())


def _arrow(path: pathlib.Path) -> list[Row]:
    """A file of save_to_disk: the stream format."""
    import pyarrow.ipc

    def table() -> Any:
        with pyarrow.memory_map(str(path)) as file:
            return pyarrow.ipc.open_stream(file).read_all()

    return _rows(path, table)


def _rows(path: pathlib.Path, read_table: Any) -> list[Row]:
    import pyarrow

    try:
        table = read_table()
    except (OSError, pyarrow.ArrowException) as error:
        raise DatasetError(f"{path}: {error}") from error
    for i, column in enumerate(table.schema):
        if pyarrow.types.is_temporal(column.type) or pyarrow.types.is_decimal(column.type):
            table = table.set_column(i, column.name, table.column(i).cast(pyarrow.string()))
        elif not _is_json(column.type):
            raise DatasetError(
                f"{path}: column {column.name} is {column.type}, which a row cannot carry as JSON; leave it out of the "
                "file, or write it as text"
            )
    rows: list[Row] = table.to_pylist()
    return rows


def _is_json(kind: Any) -> bool:
    """Whether values of an Arrow type are JSON values as Python reads them."""
    from pyarrow import types

    if types.is_struct(kind):
        return all(_is_json(kind.field(i).type) for i in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_json(kind.value_type)
    if types.is_dictionary(kind):
        return _is_json(kind.value_type)
    return any(
        is_kind(kind)
        for is_kind in (
            types.is_string,
            types.is_large_string,
            types.is_boolean,
            types.is_integer,
            types.is_floating,
            types.is_null,
        )
    )
