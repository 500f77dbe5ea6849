import importlib

from penstock.packages import hosted


def test_the_built_in_ones_are_hosted() -> None:
    assert {"sort_characters", "arithmetic", "math", "format", "python_tests"} <= set(hosted.rewards())
    assert {"gsm8k", "choice", "exact", "regex", "length", "ifeval"} <= set(hosted.rewards())
    assert {"guess_number", "calculator", "python_code", "treasure_hunt"} <= set(hosted.environments())


def test_everything_built_in_can_be_imported() -> None:
    for target in (*hosted.rewards().values(), *hosted.environments().values()):
        module, _, name = target.partition(":")
        assert hasattr(importlib.import_module(module), name), target
