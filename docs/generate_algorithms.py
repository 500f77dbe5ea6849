"""Writes docs/algorithms.md from the objectives' own docstrings, so that the page cannot say what the code does not do.

    ./bazelw run //docs:generate_algorithms        # after a change of libs/penstock/objectives

The text (when to use which) is algorithms_introduction.md, whose `<!-- name -->` lines are replaced by the functions of
that registry. `algorithms_page_test.py` fails where the committed page is not the one that this makes.
"""

import inspect
import pathlib
import re
import textwrap
from collections.abc import Callable
from typing import Any

from penstock.objectives import (
    Registry,
    advantage_estimators,
    corrections,
    critics,
    entropies,
    kl_estimators,
    off_policy_corrections,
    policy_losses,
    preference_losses,
    preferences,
    rejection,
    router,
)
from penstock.objectives.preferences import ranking
from penstock.objectives.registry import REQUIRED

HERE = pathlib.Path(__file__).parent
REGISTRIES: dict[str, Registry[Callable[..., Any]]] = {
    "advantages": advantage_estimators,
    "losses": policy_losses,
    "corrections": off_policy_corrections,
    "kl": kl_estimators,
    "preferences": preference_losses,
}


def page() -> str:
    """The whole page."""
    text = (HERE / "algorithms_introduction.md").read_text()
    return re.sub(r"<!-- (\w+) -->\n", lambda m: _section(m.group(1)), text)


def _section(name: str) -> str:
    if name == "ranking":
        return _entry("bradley_terry", ranking.bradley_terry, {"margin": 0.0, "centring": 0.0})
    if name == "critics":
        settings = {"discount": 1.0, "decay": 1.0}
        return "\n".join(
            [_entry("gae", critics.gae, settings), _entry("value_loss", critics.value_loss, {"clip": 0.2})]
        )
    if name == "router":
        return _entry("algorithm.router_coefficient", router.balance, {})
    if name == "selection":
        entries = [
            _entry("loss.correction_mean_one", corrections.mean_one.mean_one, {}),
            _entry("loss.rejection", rejection.kept, {"low": "1 / high for k1", "high": REQUIRED}),
            _entry("loss.top_entropy", entropies.undecided, {}),
        ]
        return "\n".join(entries)
    registry = REGISTRIES[name]
    entries = [_entry(n, registry.get(n), registry.settings_of(n)) for n in registry.names()]
    if name == "preferences":
        entries.append(_entry("kto", preferences.kto, {"beta": 0.1}))
    return "\n".join(entries)


def _entry(name: str, function: Callable[..., Any], settings: dict[str, Any]) -> str:
    words = inspect.cleandoc(function.__doc__ or "").replace("\n\n", "\0").replace("\n", " ").split("\0")
    given = ", ".join(f"{k} {'(required)' if v is REQUIRED else v}" for k, v in settings.items())
    first, *more = [textwrap.fill(w, 118, initial_indent="  ", subsequent_indent="  ") for w in words]
    lines = [f"- **`{name}`**" + (f" ({given})" if given else ""), first, *more]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "algorithms.md").write_text(page())
