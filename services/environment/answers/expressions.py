r"""Expressions as answers write them: `2\sqrt{3}`, `\frac13`, `x^2+1`, `5!`, `3+4i`; read, and compared by value.

`math` has a reader of its own because it pays: math-verify's reads `2(3)` as 5, `3 4` as 7, `C` as `c`, words as
products of letters (so "on" is "no"), rounds `10^{-7}` to 0, and evaluates `\binom{10^9}{…}` while it reads. This one
refuses what it does not know, and what is refused is compared as text.

Values are fractions as long as they can be, then numbers of 400 digits. **Everything is bounded before it is
evaluated**: `9^{9^{9^9}}` and `10^6!` raise `TooLarge`; the time of a comparison is bounded by the text's length. With
variables, two expressions are equal if they are at four points, of both signs.

Invariant (`test_reading_ends_whatever_the_text`): a text of up to `LONGEST` characters is read, or raises `Unreadable`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial

from services.environment.answers.values import (
    EXACT_BITS,
    FUNCTIONS,
    NUMBERS,
    TooLarge,
    Unreadable,
    Value,
    apply,
    choose,
    close,
    factorial,
    power_of,
    product,
    quotient,
    real,
    root,
    sum_of,
)

LONGEST = 1000
DEEPEST = 40
Node = Callable[[Mapping[str, Value]], Value]

_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta lambda mu nu xi rho sigma tau phi varphi chi psi omega"
)
_NAMES = {*_GREEK.split(), "ell", "Delta", "Gamma", "Theta", "Lambda", "Sigma", "Phi", "Psi", "Omega"}
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_NUMBER = re.compile(r"\d{1,3}(?:\{?,\}?\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_LETTERS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")
_TOGETHER = re.compile(r"[abcmnpqrxyzie]{2,3}")  # variables that stand together; other runs of letters are words


class Expression:
    """A text that was read. Raises `Unreadable`."""

    def __init__(self, text: str) -> None:
        reader = _Reader(text)
        try:
            self._node = reader.whole()
        except RecursionError as error:
            raise TooLarge("nested too deeply") from error
        self.names = frozenset(reader.names)
        self.decimal = re.fullmatch(r"-?\d*\.(\d+)", text.strip())
        self.value = None if self.names else self.at({})

    def at(self, names: Mapping[str, Value]) -> Value:
        """Its value for these of its variables. Raises `Unreadable` where it has none."""
        try:
            return self._node(names)
        except (ArithmeticError, ValueError, TypeError, RuntimeError) as error:  # too deep is a RuntimeError
            raise error if isinstance(error, Unreadable) else Unreadable(f"no value: {error}") from error


def equal(one: Expression, other: Expression) -> bool:
    """By value: exactly, but for a decimal of six digits or more that is an endless number's beginning."""
    if not one.names and not other.names:
        return close(one.value, other.value) or _rounded(one, other) or _rounded(other, one)
    if one.names != other.names:
        return False
    judged = 0
    for point in range(4):
        names = {name: _point(index, point) for index, name in enumerate(sorted(one.names))}
        values = []
        for each in (one, other):
            try:
                values.append(each.at(names))
            except Unreadable:
                continue
        if len(values) == 1 or (values and not close(*values)):
            return False
        judged += len(values) == 2
    return judged >= 2


def proportional(one: Expression, other: Expression) -> float:
    """The sign of the number that one is times the other (what an equation or inequality allows); 0 if none."""
    if one.names != other.names or not one.names:
        return 0
    ratios = []
    for point in range(4):
        names = {name: _point(index, point) for index, name in enumerate(sorted(one.names))}
        try:
            ratios.append(quotient(one.at(names), other.at(names)))
        except Unreadable:
            return 0
    if any(isinstance(ratio, NUMBERS.mpc) or not close(ratio, ratios[0]) for ratio in ratios):
        return 0
    return float((ratios[0] > 0) - (ratios[0] < 0))


def _point(name: int, point: int) -> Fraction:
    """Some fraction between 1/2 and 3/2, of either sign: no two alike."""
    sign = -1 if (name + 1) * 7 + point * 5 + point // 2 & 1 else 1
    return sign * Fraction(1009 + (name * 5741 + point * 3989 + name * point * 101) % 1999, 2003)


def _rounded(written: Expression, endless: Expression) -> bool:
    if written.decimal is None or len(written.decimal.group(1)) < 6 or endless.decimal is not None:
        return False
    value, digits = endless.value, len(written.decimal.group(1))
    if isinstance(value, Fraction) and pow(10, EXACT_BITS, value.denominator) == 0:
        return False  # it has an end, and is compared exactly
    if isinstance(value, NUMBERS.mpc):
        return False
    significant = len(written.decimal.group(0).lstrip("-0.").replace(".", ""))
    return significant >= 6 and bool(abs(real(value) - real(written.value)) * 10**digits * 2 <= 1)


def _call(function: Callable[..., Value], *parts: Node) -> Node:
    return lambda names: function(*(part(names) for part in parts))


def _constant(value: Value) -> Node:
    return lambda _: value


class _Reader:
    """Recursive descent over the characters; each method reads one thing at `_at` and gives its node."""

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise TooLarge(f"longer than {LONGEST} characters")
        words = [word for word in _LETTERS.findall(_COMMAND.sub(" ", text)) if not _TOGETHER.fullmatch(word)]
        if words:
            raise Unreadable(f"{words[0]!r} is a word")
        self._text, self._at, self._deep = text, 0, 0
        self.names = set[str]()

    def whole(self) -> Node:
        node = self._sum()
        if self._peek():
            raise Unreadable(f"unexpected {self._text[self._at :][:20]!r}")
        return node

    def _peek(self) -> str:
        """What comes next: a command's name, or one character; empty at the end."""
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        found = _COMMAND.match(self._text, self._at)
        return found[0] if found else self._text[self._at : self._at + 1]

    def _take(self, *wanted: str) -> bool:
        found = self._peek()
        if found and found in wanted:
            self._at += len(found)
            return True
        return False

    def _need(self, wanted: str) -> None:
        if not self._take(wanted):
            raise Unreadable(f"{wanted!r} is missing")

    def _sum(self) -> Node:
        self._deep += 1
        if self._deep > DEEPEST:
            raise TooLarge("nested too deeply")
        node = self._term()
        while self._peek() in ("+", "-"):
            minus = self._peek() == "-"
            self._at += 1
            node = _call(sum_of, node, _minus(self._term()) if minus else self._term())
        self._deep -= 1
        return node

    def _term(self) -> Node:
        signs = 0
        while self._take("-", "+"):
            signs += self._text[self._at - 1] == "-"
        node, divided = self._factor(), False
        while True:
            if self._take("*", "\\cdot", "\\times"):
                node = _call(product, node, self._signed())
            elif self._take("/", "\\div"):
                node, divided = _call(quotient, node, self._signed()), True
            elif self._begins():
                if divided:
                    raise Unreadable("what does the slash divide by?")
                node = _call(product, node, self._factor())
            else:
                return _minus(node) if signs % 2 else node

    def _signed(self) -> Node:
        return _minus(self._factor()) if self._take("-") else self._factor()

    def _begins(self) -> bool:
        """Whether a factor follows without a sign. A number does not: `3 4` and `x2` mean something else."""
        found = self._peek()
        if found.startswith("\\"):
            return found[1:] in _NAMES or found[1:] in FUNCTIONS or found in _Reader._OPENING
        return bool(found) and (found.isascii() and found.isalpha() or found == "(")

    _OPENING = ("\\frac", "\\sqrt", "\\binom", "\\pi", "\\infty")

    def _factor(self) -> Node:
        node = self._atom()
        while self._take("!"):
            node = _call(factorial, node)
        if self._take("^"):
            if self._degrees():
                return _call(product, node, _constant(NUMBERS.pi / 180))
            node = _call(power_of, node, self._exponent())
            while self._take("!"):
                raise Unreadable("a factorial of a power wants brackets")
        return node

    def _degrees(self) -> bool:
        before = self._at
        braced = self._take("{")
        if self._take("\\circ") and (not braced or self._take("}")):
            return True
        self._at = before
        return False

    def _exponent(self) -> Node:
        if self._peek() == "{":
            return self._argument()
        return _minus(self._factor()) if self._take("-") else self._factor()

    def _argument(self) -> Node:
        """`{…}`, or the one character or command that TeX would take."""
        if self._take("{"):
            node = self._sum()
            self._need("}")
            return node
        found = self._peek()
        if found.isascii() and found.isdigit():
            self._at += 1
            return _constant(Fraction(int(found)))
        return self._atom()

    def _atom(self) -> Node:
        number = _NUMBER.match(self._text, self._at if self._peek() else len(self._text))
        if number:
            self._at = number.end()
            digits = re.sub(r"[{},]", "", number[0])
            if len(digits) > 300:
                raise TooLarge("too many digits")
            return _constant(Fraction(digits if digits[-1] != "." else digits[:-1]))
        found = self._peek()
        self._at += len(found)
        match found:
            case "(" | "[" | "{" | "|":
                node = self._sum()
                self._need({"(": ")", "[": "]", "{": "}", "|": "|"}[found])
                return _call(abs, node) if found == "|" else node
            case "\\frac":
                return _call(quotient, self._argument(), self._argument())
            case "\\binom":
                return _call(choose, self._argument(), self._argument())
            case "\\sqrt":
                degree = _constant(Fraction(2))
                if self._take("["):
                    degree = self._sum()
                    self._need("]")
                return _call(root, degree, self._argument())
            case "\\pi":
                return _constant(+NUMBERS.pi)
            case "e":
                return _constant(+NUMBERS.e)
            case "i":
                return _constant(NUMBERS.mpc(0, 1))
        if found.removeprefix("\\") in FUNCTIONS and found.startswith("\\"):
            return self._function(found[1:])
        if (found.isascii() and found.isalpha()) or found[1:] in _NAMES:
            return self._name(found)
        raise Unreadable(f"unknown {found!r}" if found else "it ends too early")

    def _name(self, name: str) -> Node:
        if self._take("_"):
            below = re.match(r"\{(\w+)\}|(\w)", self._text[self._at :])
            if below is None:
                raise Unreadable("a subscript is missing")
            self._at += below.end()
            name = f"{name}_{below[1] or below[2]}"
        self.names.add(name)
        return lambda names: names[name]

    def _function(self, name: str) -> Node:
        base: Node | None = self._argument() if name == "log" and self._take("_") else None
        power: Node | None = None
        if self._take("^"):
            power = self._exponent()
        if self._peek() in ("(", "{", "["):
            argument = self._atom()
        else:
            argument = self._factor()
            while self._begins() and self._peek()[1:] not in FUNCTIONS and self._peek() != "(":
                argument = _call(product, argument, self._factor())
        if base is not None:
            node = _call(quotient, _call(partial(apply, "ln"), argument), _call(partial(apply, "ln"), base))
        else:
            node = _call(partial(apply, name), argument)
        if power is None:
            return node
        inverse = _call(partial(apply, _INVERSE[name]), argument) if name in _INVERSE else None
        return lambda names: _to_power(node, power, inverse, names)


def _to_power(node: Node, power: Node, inverse: Node | None, names: Mapping[str, Value]) -> Value:
    r"""`\sin^2 x`; but `\sin^{-1} x` is the inverse function."""
    exponent = power(names)
    if exponent == -1:
        if inverse is None:
            raise Unreadable("the inverse of what?")
        return inverse(names)
    return power_of(node(names), exponent)


def _minus(node: Node) -> Node:
    return lambda names: -node(names)
