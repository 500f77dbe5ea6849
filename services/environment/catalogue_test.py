import importlib

from services.environment import catalogue


def test_the_catalogue_has_the_built_in_ones() -> None:
    assert {"sort_characters", "arithmetic", "math", "format", "python_tests"} <= set(catalogue.rewards())
    assert {"gsm8k", "choice", "exact", "regex", "length", "ifeval"} <= set(catalogue.rewards())
    assert {"guess_number", "calculator", "python_code", "treasure_hunt"} <= set(catalogue.environments())


def test_everything_built_in_can_be_imported() -> None:
    for target in (*catalogue.rewards().values(), *catalogue.environments().values()):
        module, _, name = target.partition(":")
        assert hasattr(importlib.import_module(module), name), target
