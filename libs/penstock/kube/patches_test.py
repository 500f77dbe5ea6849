"""Patches: what they leave out is what is alike."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.kube.patches import KEYS, difference

VALUES = st.integers(0, 2) | st.sampled_from(["a", "b"]) | st.lists(st.integers(0, 2), max_size=2)


def entries(key: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    entry = st.fixed_dictionaries({key: st.sampled_from("uvw")}, optional={"value": VALUES, "more": VALUES})
    return st.lists(entry, max_size=3, unique_by=lambda each: each[key])


def objects() -> st.SearchStrategy[dict[str, Any]]:
    lists = {name: entries(key) for name, key in KEYS.items()}
    leaves = st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3)
    return st.fixed_dictionaries({}, optional={**lists, "spec": leaves, "labels": leaves, "args": VALUES})


def merged(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """As Kubernetes merges: an independent reading of its rules."""
    found = dict(base)
    for key, change in patch.items():
        was = base.get(key)
        if change is None:
            found.pop(key, None)
        elif isinstance(change, dict) and isinstance(was, dict):
            found[key] = merged(was, change)
        elif key in KEYS and isinstance(was, list):
            by = {each[KEYS[key]]: each for each in was}
            for each in change:
                name = each[KEYS[key]]
                if each.get("$patch") == "delete":
                    del by[name]
                else:
                    by[name] = merged(by.get(name, {}), each)
            found[key] = list(by.values())
        else:
            found[key] = change
    return found


def ordered(value: Any, key: str = "") -> Any:
    """With lists that are merged by a key in one order."""
    if isinstance(value, dict):
        return {name: ordered(each, name) for name, each in value.items()}
    if key in KEYS:
        return sorted(map(ordered, value), key=lambda each: each[KEYS[key]])
    return value


@given(objects(), objects())
def test_a_base_with_its_patch_is_what_is_wanted(base: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert ordered(merged(base, difference(base, wanted))) == ordered(wanted)


@given(objects())
def test_what_is_alike_needs_no_patch(wanted: dict[str, Any]) -> None:
    assert difference(wanted, wanted) == {}
