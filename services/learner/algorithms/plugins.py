"""What users add themselves (losses of tokens and of pairs, advantages, corrections, KL estimators, normalisations,
filters): files or modules that register it when imported.

Every rank imports them before settings are resolved, so their names are as good as the built-in ones.
"""

import importlib
import importlib.util
import pathlib
from collections.abc import Iterable


class PluginError(ValueError):
    """A plugin that cannot be imported; the message has its name and what it raised."""


def load_plugins(plugins: Iterable[str]) -> None:
    """Imports each: a path that ends with .py, or the name of an importable module. Raises PluginError."""
    for plugin in plugins:
        try:
            if plugin.endswith(".py"):
                _import_file(pathlib.Path(plugin))
            else:
                importlib.import_module(plugin)
        except Exception as error:  # somebody else's code: whatever it raises is the reason
            raise PluginError(f"plugins: {plugin!r} cannot be imported: {type(error).__name__}: {error}") from error


def _import_file(path: pathlib.Path) -> None:
    spec = importlib.util.spec_from_file_location(f"penstock_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError("is no Python file")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
