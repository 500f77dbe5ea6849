"""Names for interchangeable objectives: a recipe says `ppo_clip`, this finds the function and checks its parameters.

A new loss is one file with one decorated function, and a row of the recipes' choices, which a test holds to this. A
wrong name or parameter is refused with the valid ones before a run starts, not when the first batch arrives.
"""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, TypeVar

REQUIRED = object()
"""Stands for the default of a setting that has none."""

F = TypeVar("F", bound=Callable[..., Any])


class UnknownChoice(ValueError):
    """A name or parameter that no registered function has; the message lists what there is."""


def _nearest(name: str, choices: list[str]) -> str:
    match = difflib.get_close_matches(name, choices, n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


class Registry(Generic[F]):
    """Functions of one kind by name.

    Keyword-only arguments of a registered function are its settings; positional ones are data.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._functions: dict[str, F] = {}

    def __call__(self, name: str) -> Callable[[F], F]:
        """Decorator: registers the function under `name`."""

        def register(function: F) -> F:
            if name in self._functions:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._functions[name] = function
            return function

        return register

    def names(self) -> list[str]:
        return sorted(self._functions)

    def get(self, name: str) -> F:
        """The bare function. Raises UnknownChoice."""
        if name not in self._functions:
            raise UnknownChoice(
                f"unknown {self.kind} {name!r}{_nearest(name, self.names())}; valid: {', '.join(self.names())}"
            )
        return self._functions[name]

    def settings_of(self, name: str) -> dict[str, Any]:
        """Settings of `name` with their defaults; REQUIRED where there is none."""
        parameters = inspect.signature(self.get(name)).parameters.values()
        return {p.name: REQUIRED if p.default is p.empty else p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def make(self, name: str, **settings: Any) -> Callable[..., Any]:
        """The function with `settings` bound.

        Raises UnknownChoice for a name or a setting that does not exist, or a required setting that is missing.
        """
        function, known = self.get(name), self.settings_of(name)
        for key in settings:
            if key not in known:
                raise UnknownChoice(
                    f"{self.kind} {name!r} has no setting {key!r}{_nearest(key, list(known))}; "
                    f"valid: {', '.join(known) or 'none'}"
                )
        missing = [key for key, default in known.items() if default is REQUIRED and key not in settings]
        if missing:
            raise UnknownChoice(f"{self.kind} {name!r} needs the setting {missing[0]!r}, which has no default")
        return functools.partial(function, **settings)


policy_losses: Registry[Callable[..., Any]] = Registry("policy loss")
off_policy_corrections: Registry[Callable[..., Any]] = Registry("off-policy correction")
advantage_estimators: Registry[Callable[..., Any]] = Registry("advantage estimator")
kl_estimators: Registry[Callable[..., Any]] = Registry("KL estimator")
normalisations: Registry[Callable[..., Any]] = Registry("normalisation")
group_filters: Registry[Callable[..., Any]] = Registry("group filter")
preference_losses: Registry[Callable[..., Any]] = Registry("preference loss")
