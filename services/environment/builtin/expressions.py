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

import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from typing import Any

import mpmath  # type: ignore[import-untyped]

LONGEST = 1000
DEEPEST = 40
EXACT_BITS = 4096  # of a fraction's numerator and denominator
REAL_BITS = 500  # |log2| of other numbers: two of them that differ by 1 differ within the 400 digits
MOST_FACTORIAL, MOST_CHOOSE = 400, 1000
_mp = mpmath.mp.clone()
_mp.dps = 400
_SAME, _ZERO = _mp.mpf(10) ** -200, _mp.mpf(10) ** -220
Value = Any  # Fraction, or mpmath's mpf and mpc
Node = Callable[[Mapping[str, Value]], Value]

_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta lambda mu nu xi rho sigma tau phi varphi chi psi omega"
)
_NAMES = {*_GREEK.split(), "ell", "Delta", "Gamma", "Theta", "Lambda", "Sigma", "Phi", "Psi", "Omega"}
_FUNCTIONS: dict[str, Any] = {
    **{name: getattr(_mp, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp")},
    **{f"arc{name}": getattr(_mp, f"a{name}") for name in ("sin", "cos", "tan")},
    "ln": _mp.ln,
    "log": _mp.log10,
}
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_NUMBER = re.compile(r"\d{1,3}(?:\{?,\}?\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_LETTERS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")
_TOGETHER = re.compile(r"[abcmnpqrxyzie]{2,3}")  # variables that stand together; other runs of letters are words


class Unreadable(ValueError):
    """The text is no expression that is known here."""


class TooLarge(Unreadable):
    """Its value, or one on the way to it, is beyond all bounds."""


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
        return _close(one.value, other.value) or _rounded(one, other) or _rounded(other, one)
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
        if len(values) == 1 or (values and not _close(*values)):
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
            ratios.append(_quotient(one.at(names), other.at(names)))
        except Unreadable:
            return 0
    if any(isinstance(ratio, _mp.mpc) or not _close(ratio, ratios[0]) for ratio in ratios):
        return 0
    return float((ratios[0] > 0) - (ratios[0] < 0))


def _point(name: int, point: int) -> Fraction:
    """Some fraction between 1/2 and 3/2, of either sign: no two alike."""
    sign = -1 if (name + 1) * 7 + point * 5 + point // 2 & 1 else 1
    return sign * Fraction(1009 + (name * 5741 + point * 3989 + name * point * 101) % 1999, 2003)


def _close(one: Value, other: Value) -> bool:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    one, other = _real(one), _real(other)
    return bool(abs(one - other) <= _SAME * max(1, abs(one), abs(other)))


def _rounded(written: Expression, endless: Expression) -> bool:
    if written.decimal is None or len(written.decimal.group(1)) < 6 or endless.decimal is not None:
        return False
    value, digits = endless.value, len(written.decimal.group(1))
    if isinstance(value, Fraction) and pow(10, EXACT_BITS, value.denominator) == 0:
        return False  # it has an end, and is compared exactly
    if isinstance(value, _mp.mpc):
        return False
    significant = len(written.decimal.group(0).lstrip("-0.").replace(".", ""))
    return significant >= 6 and bool(abs(_real(value) - _real(written.value)) * 10**digits * 2 <= 1)


def _real(value: Value) -> Value:
    return _mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _bounded(value: Value) -> Value:
    """Raises `TooLarge`."""
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > EXACT_BITS:
            raise TooLarge("too large a fraction")
        return value
    if not _mp.isfinite(value):
        raise Unreadable("not finite")
    size = abs(value)
    if size < _ZERO:
        return Fraction(0)
    if abs(_mp.mag(size)) > REAL_BITS:
        raise TooLarge("too large or small a number")
    return value.real if isinstance(value, _mp.mpc) and abs(value.imag) < _SAME * size else value


def _sum(one: Value, other: Value) -> Value:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return _bounded(one + other)
    return _bounded(_bounded_real(one) + _bounded_real(other))


def _product(one: Value, other: Value) -> Value:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return _bounded(one * other)
    return _bounded(_bounded_real(one) * _bounded_real(other))


def _quotient(one: Value, other: Value) -> Value:
    if other == 0:
        raise Unreadable("division by zero")
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return _bounded(one / other)
    return _bounded(_bounded_real(one) / _bounded_real(other))


def _bounded_real(value: Value) -> Value:
    return _bounded(_real(value)) if value != 0 else _mp.mpf(0)


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(exponent, Fraction) and exponent.denominator == 1 and abs(exponent) <= EXACT_BITS:
        if base == 0 and exponent <= 0:
            raise Unreadable("no power of zero")
        if isinstance(base, Fraction):
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(base) != 1 and (bits - 1) * abs(exponent) > EXACT_BITS:
                raise TooLarge("too large a power")
            return _bounded(base ** int(exponent))
    if base == 0 or base == 1:
        return Fraction(int(base))
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 2 and base > 0:
        roots = math.isqrt(base.numerator), math.isqrt(base.denominator)
        if roots[0] ** 2 == base.numerator and roots[1] ** 2 == base.denominator:
            return _power(Fraction(*roots), 2 * exponent)
    exponent, logarithm = _bounded_real(exponent), _mp.ln(_bounded_real(base))
    if abs(exponent * logarithm) > REAL_BITS:
        raise TooLarge("too large a power")
    return _bounded(_mp.exp(exponent * logarithm))


def _root(degree: Value, value: Value) -> Value:
    if not isinstance(degree, Fraction) or degree.denominator != 1 or not 2 <= degree <= 100:
        raise Unreadable("no such root")
    real = value if isinstance(value, Fraction) else None
    if real is not None and real < 0 and degree % 2:
        return -_root(degree, -value)
    found = _power(value, 1 / degree)
    if real is not None and not isinstance(found, Fraction) and not isinstance(found, _mp.mpc):
        near = Fraction(int(_mp.nint(found)))
        if near.numerator.bit_length() < 64 and near**degree == real:
            return near
    return found


def _apply(name: str, value: Value) -> Value:
    if name in ("exp",):
        return _power(+_mp.e, value)
    if value == 0 and name in ("ln", "log"):
        raise Unreadable("no logarithm of zero")
    return _bounded(_FUNCTIONS[name](_bounded_real(value)))


def _factorial(value: Value) -> Value:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise Unreadable("no factorial")
    if value > MOST_FACTORIAL:
        raise TooLarge("too large a factorial")
    return _bounded(Fraction(math.factorial(int(value))))


def _choose(above: Value, below: Value) -> Value:
    if not all(isinstance(each, Fraction) and each.denominator == 1 and each >= 0 for each in (above, below)):
        raise Unreadable("no binomial")
    if above > MOST_CHOOSE:
        raise TooLarge("too large a binomial")
    return _bounded(Fraction(math.comb(int(above), int(below))))


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
            node = _call(_sum, node, _minus(self._term()) if minus else self._term())
        self._deep -= 1
        return node

    def _term(self) -> Node:
        signs = 0
        while self._take("-", "+"):
            signs += self._text[self._at - 1] == "-"
        node, divided = self._factor(), False
        while True:
            if self._take("*", "\\cdot", "\\times"):
                node = _call(_product, node, self._signed())
            elif self._take("/", "\\div"):
                node, divided = _call(_quotient, node, self._signed()), True
            elif self._begins():
                if divided:
                    raise Unreadable("what does the slash divide by?")
                node = _call(_product, node, self._factor())
            else:
                return _minus(node) if signs % 2 else node

    def _signed(self) -> Node:
        return _minus(self._factor()) if self._take("-") else self._factor()

    def _begins(self) -> bool:
        """Whether a factor follows without a sign. A number does not: `3 4` and `x2` mean something else."""
        found = self._peek()
        if found.startswith("\\"):
            return found[1:] in _NAMES or found[1:] in _FUNCTIONS or found in _Reader._OPENING
        return bool(found) and (found.isascii() and found.isalpha() or found == "(")

    _OPENING = ("\\frac", "\\sqrt", "\\binom", "\\pi", "\\infty")

    def _factor(self) -> Node:
        node = self._atom()
        while self._take("!"):
            node = _call(_factorial, node)
        if self._take("^"):
            if self._degrees():
                return _call(_product, node, _constant(_mp.pi / 180))
            node = _call(_power, node, self._exponent())
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
                return _call(_absolute, node) if found == "|" else node
            case "\\frac":
                return _call(_quotient, self._argument(), self._argument())
            case "\\binom":
                return _call(_choose, self._argument(), self._argument())
            case "\\sqrt":
                degree = _constant(Fraction(2))
                if self._take("["):
                    degree = self._sum()
                    self._need("]")
                return _call(_root, degree, self._argument())
            case "\\pi":
                return _constant(+_mp.pi)
            case "e":
                return _constant(+_mp.e)
            case "i":
                return _constant(_mp.mpc(0, 1))
        if found.removeprefix("\\") in _FUNCTIONS and found.startswith("\\"):
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
            while self._begins() and self._peek()[1:] not in _FUNCTIONS and self._peek() != "(":
                argument = _call(_product, argument, self._factor())
        if base is not None:
            node = _call(_quotient, _call(partial(_apply, "ln"), argument), _call(partial(_apply, "ln"), base))
        else:
            node = _call(partial(_apply, name), argument)
        if power is None:
            return node
        inverse = _call(partial(_apply, _INVERSE[name]), argument) if name in _INVERSE else None
        return lambda names: _to_power(node, power, inverse, names)


def _to_power(node: Node, power: Node, inverse: Node | None, names: Mapping[str, Value]) -> Value:
    r"""`\sin^2 x`; but `\sin^{-1} x` is the inverse function."""
    exponent = power(names)
    if exponent == -1:
        if inverse is None:
            raise Unreadable("the inverse of what?")
        return inverse(names)
    return _power(node(names), exponent)


def _minus(node: Node) -> Node:
    return lambda names: -node(names)


def _absolute(value: Value) -> Value:
    return abs(value)
