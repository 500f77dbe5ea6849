"""The rows of a data set, whatever it is kept in: JSON Lines, parquet, or a directory of Hugging Face datasets.

    rows.jsonl                           one JSON object a line
    rows.parquet, DIR/train-*.parquet    one table, or several of the same columns, in the order of their names
    DIR                                  what `save_to_disk` wrote, or a folder with the parquet files of one split

A row becomes a mapping of JSON values: it travels with its task to the environment that scores it. A line that is no
row is a fault beside the rows: whoever reads decides whether one is left out or stops the run.
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
    """Rows, and where each is found: `places` has its file, what one is called there (line or row), and its number from
    1. `faults`: a sentence for each line that is no row."""

    rows: list[Row]
    places: list[tuple[pathlib.Path, str, int]]
    faults: list[str]


def read(path: pathlib.Path) -> Rows:
    """At least one row or fault. Raises DatasetError for what cannot be read as a whole."""
    files = sorted(pathlib.Path(p) for p in glob.glob(str(path))) if glob.has_magic(str(path)) else [path]
    if not files:
        raise DatasetError(f"{path}: no file matches")
    found = Rows([], [], [])
    if path.is_dir():
        _add_table(found, path, _directory(path))
    elif all(file.suffix == ".parquet" for file in files):
        for file in files:
            _add_table(found, file, _parquet(file))
    else:
        for file in files:
            _add_lines(found, file)
    if not found.rows and not found.faults:
        raise DatasetError(f"{path}: has no rows")
    return found


def numbered(name: str, count: int, *, held_out: bool) -> Rows:
    """Rows that are numbers alone: the environment of that name makes a task of each."""
    beside = {"held_out": True} if held_out else {}
    rows = [{"index": number, **beside} for number in range(count)]
    return Rows(rows, [(pathlib.Path(name), "task", number) for number in range(count)], [])


def _add_table(found: Rows, path: pathlib.Path, rows: list[Row]) -> None:
    found.rows.extend(rows)
    found.places.extend((path, "row", number) for number in range(1, len(rows) + 1))


def _add_lines(found: Rows, path: pathlib.Path) -> None:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    _add_line(found, path, number, line)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error


def _add_line(found: Rows, path: pathlib.Path, number: int, line: bytes) -> None:
    try:  # a byte order mark is no part of the first row
        row = _json_row(line.decode("utf-8-sig" if number == 1 else "utf-8"), f"{path}, line {number}")
    except UnicodeDecodeError as error:
        found.faults.append(f"{path}, line {number}: {error}")
    except DatasetError as error:
        found.faults.append(str(error))
    else:
        found.rows.append(row)
        found.places.append((path, "line", number))


def _json_row(line: str, place: str) -> Row:
    """A row of strict JSON. Raises DatasetError for what another reader would take otherwise, or not at all."""
    try:
        row = json.loads(line, parse_constant=_no_number, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{place}: {error.msg} at character {error.colno}") from error
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
