"""Requirements follow from imports."""

import pathlib

import pytest

from bazel.wheels.requirements import compatible, module_of, requirements


@pytest.mark.parametrize(
    ("version", "wanted"),
    [("1.85.1", "x>=1.85,<2"), ("0.29.2", "x>=0.29,<1"), ("0.66b2", "x>=0.66b2,<1"), ("2026.9.0", "x>=2026.9,<2027")],
)
def test_a_range_is_from_what_was_tested_to_before_the_next_major_release(version: str, wanted: str) -> None:
    assert compatible("x", version) == wanted


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("a/b.py", "a.b"),
        ("a/__init__.py", "a"),
        ("a/c.cpython-311-x86_64-linux-gnu.so", "a.c"),
        ("a/b.pyi", None),
        ("a/py.typed", None),
    ],
)
def test_a_module_is_a_file_that_is_imported(file: str, module: str | None) -> None:
    assert module_of(pathlib.PurePath(file)) == module


def names(sources: dict[str, str], own: tuple[str, ...] = ()) -> list[str]:
    return [each.partition(">")[0] for each in requirements(sources, own)]


def test_a_module_belongs_to_the_distribution_that_has_its_file_also_in_a_shared_namespace() -> None:
    assert names({"a": "from google.protobuf import json_format"}) == ["protobuf"]
    assert names({"a": "from google.rpc import status_pb2"}) == ["googleapis-common-protos"]


def test_the_standard_library_and_what_is_ours_is_no_requirement() -> None:
    assert (
        names({"a.b": "import json\nfrom a import b\nfrom ours import c", "a.c": "from a.b import x"}, ("ours",)) == []
    )


def test_an_import_inside_a_function_counts() -> None:
    assert names({"a": "def f():\n    import numpy.linalg\n"}) == ["numpy"]


def test_what_nothing_here_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a imports no_such_library\.part"):
        requirements({"a": "from no_such_library import part"}, ())
