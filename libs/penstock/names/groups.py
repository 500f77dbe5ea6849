"""The names of groups. Names of training groups sort as their numbers do."""

import re

_TRAINING = re.compile(r"g([0-9]{8,})")


def training_group(number: int) -> str:
    """The name of the number-th training group. Raises ValueError for a negative number."""
    if number < 0:
        raise ValueError(f"group number {number} is negative")
    return f"g{number:08d}"


def group_number(name: str) -> int:
    """The inverse of training_group. Raises ValueError for another name."""
    found = _TRAINING.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is not the name of a training group")
    return int(found[1])


def evaluation_group(step: int, row: int, again: int = 0) -> str:
    """The name of the row-th group of the evaluation of version `step`; again: how often it was begun before. Raises
    ValueError for a negative number."""
    if step < 0 or row < 0 or again < 0:
        raise ValueError(f"step {step}, row {row}, again {again}: must not be negative")
    return f"e{step:08d}-{row}" + (f"-{again}" if again else "")
