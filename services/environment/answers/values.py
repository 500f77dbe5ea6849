"""Arithmetic that is bounded before it is done: fractions as long as they can be, then numbers of 400 digits."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import mpmath  # type: ignore[import-untyped]

EXACT_BITS = 4096  # of a fraction's numerator and denominator
REAL_BITS = 500  # |log2| of other numbers: two of them that differ by 1 differ within the 400 digits
MOST_FACTORIAL, MOST_CHOOSE = 400, 1000
NUMBERS = mpmath.mp.clone()
NUMBERS.dps = 400
_SAME, _ZERO = NUMBERS.mpf(10) ** -200, NUMBERS.mpf(10) ** -220
Value = Any  # Fraction, or mpmath's mpf and mpc
FUNCTIONS: dict[str, Any] = {
    **{
        name: getattr(NUMBERS, name)
        for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp")
    },
    **{f"arc{name}": getattr(NUMBERS, f"a{name}") for name in ("sin", "cos", "tan")},
    "ln": NUMBERS.ln,
    "log": NUMBERS.log10,
}


class Unreadable(ValueError):
    """The text is no expression that is known here."""


class TooLarge(Unreadable):
    """Its value, or one on the way to it, is beyond all bounds."""


def close(one: Value, other: Value) -> bool:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    one, other = real(one), real(other)
    return bool(abs(one - other) <= _SAME * max(1, abs(one), abs(other)))


def real(value: Value) -> Value:
    return NUMBERS.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def bounded(value: Value) -> Value:
    """Raises `TooLarge`."""
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > EXACT_BITS:
            raise TooLarge("too large a fraction")
        return value
    if not NUMBERS.isfinite(value):
        raise Unreadable("not finite")
    size = abs(value)
    if size < _ZERO:
        return Fraction(0)
    if abs(NUMBERS.mag(size)) > REAL_BITS:
        raise TooLarge("too large or small a number")
    return value.real if isinstance(value, NUMBERS.mpc) and abs(value.imag) < _SAME * size else value


def sum_of(one: Value, other: Value) -> Value:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return bounded(one + other)
    return bounded(bounded_real(one) + bounded_real(other))


def product(one: Value, other: Value) -> Value:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return bounded(one * other)
    return bounded(bounded_real(one) * bounded_real(other))


def quotient(one: Value, other: Value) -> Value:
    if other == 0:
        raise Unreadable("division by zero")
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return bounded(one / other)
    return bounded(bounded_real(one) / bounded_real(other))


def bounded_real(value: Value) -> Value:
    return bounded(real(value)) if value != 0 else NUMBERS.mpf(0)


def power_of(base: Value, exponent: Value) -> Value:
    if isinstance(exponent, Fraction) and exponent.denominator == 1 and abs(exponent) <= EXACT_BITS:
        if base == 0 and exponent <= 0:
            raise Unreadable("no power of zero")
        if isinstance(base, Fraction):
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(base) != 1 and (bits - 1) * abs(exponent) > EXACT_BITS:
                raise TooLarge("too large a power")
            return bounded(base ** int(exponent))
    if base == 0 or base == 1:
        return Fraction(int(base))
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 2 and base > 0:
        roots = math.isqrt(base.numerator), math.isqrt(base.denominator)
        if roots[0] ** 2 == base.numerator and roots[1] ** 2 == base.denominator:
            return power_of(Fraction(*roots), 2 * exponent)
    exponent, logarithm = bounded_real(exponent), NUMBERS.ln(bounded_real(base))
    if abs(exponent * logarithm) > REAL_BITS:
        raise TooLarge("too large a power")
    return bounded(NUMBERS.exp(exponent * logarithm))


def root(degree: Value, value: Value) -> Value:
    if not isinstance(degree, Fraction) or degree.denominator != 1 or not 2 <= degree <= 100:
        raise Unreadable("no such root")
    exact = value if isinstance(value, Fraction) else None
    if exact is not None and exact < 0 and degree % 2:
        return -root(degree, -value)
    found = power_of(value, 1 / degree)
    if exact is not None and not isinstance(found, Fraction) and not isinstance(found, NUMBERS.mpc):
        near = Fraction(int(NUMBERS.nint(found)))
        if near.numerator.bit_length() < 64 and near**degree == exact:
            return near
    return found


def apply(name: str, value: Value) -> Value:
    if name in ("exp",):
        return power_of(+NUMBERS.e, value)
    if value == 0 and name in ("ln", "log"):
        raise Unreadable("no logarithm of zero")
    return bounded(FUNCTIONS[name](bounded_real(value)))


def factorial(value: Value) -> Value:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise Unreadable("no factorial")
    if value > MOST_FACTORIAL:
        raise TooLarge("too large a factorial")
    return bounded(Fraction(math.factorial(int(value))))


def choose(above: Value, below: Value) -> Value:
    if not all(isinstance(each, Fraction) and each.denominator == 1 and each >= 0 for each in (above, below)):
        raise Unreadable("no binomial")
    if above > MOST_CHOOSE:
        raise TooLarge("too large a binomial")
    return bounded(Fraction(math.comb(int(above), int(below))))
