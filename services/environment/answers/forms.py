r"""What a short answer is (number, tuple, interval, list, matrix, inequality, words), and when two are the same.

`same(expected, answer)` cleans both alike (`\left`, `\dfrac`, spaces, unicode), takes them apart at their outermost
signs, and compares what is left by value (`expressions.py`). What is no mathematics is compared as text. The rules:

- lists (`1, -2`; `1 \pm 2`; `\{1, 2\}`) and unions in any order, tuples and intervals in theirs;
- `x = 5`, `x \in S`, `-2 \le x \le 7` may be answered without the variable, but not with another one;
- a unit may be missing on one side, not be another one; `50\%` is `0.5`, and `50` where the gold is `50%`;
- numbers in a base (`11_2`) want the base; ratios and times of day (`3:4`) their own parts.

Invariant (`test_no_completion_is_paid_for_a_wrong_answer`): where nothing can be said, the answers differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from services.environment.answers.cleaning import clean, plain
from services.environment.answers.expressions import LONGEST, Expression, equal, proportional
from services.environment.answers.values import Unreadable

_MOST_PARTS = 64
_MIXED = re.compile(r"(?<![\d.^_}])(\d+)\s*(?:\\frac\{(\d+)\}\{(\d+)\}|\s(\d+)/(\d+)(?!\d))")
_ASIDE = r"\s*(?:[,;]|\s+or\s+|\s+and\s+|,\s*(?:or|and)\s+)\s*"
_RELATION = re.compile(r"\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|<|>")
_SYMBOL = re.compile(r"(?:[a-zA-Z]|\\[a-zA-Z]+)(?:_\{?\w+\}?)?")
_LEFT = re.compile(r"(?:[a-zA-Z]|\\(?:theta|alpha|beta|gamma|lambda|mu|phi))(?:_\{?\w+\}?)?'{0,2}(?:\([a-zA-Z, ]*\))?")
_MATRIX = re.compile(r"\\begin\{([pbB]?|small)matrix\}(.*)\\end\{\1matrix\}", re.DOTALL)
_BASE = re.compile(r"([0-9A-Fa-f]*\d[0-9A-Fa-f]*)_(?:\{\s*(\w+)\s*\}|(\d+)|\s(\w+))\s*")
_CURRENCY = re.compile(r"^(-?)\s*(?:\\?([$€£¥₹])|(USD|EUR)\s)\s*(?=[-\d.])")
_UNIT = re.compile(
    r"^(.*?[\d)}!]|.*\\pi)(?P<gap>\s*)(?P<unit>\^\{?\\circ\s*\}?\s*[CF]?|(?:[a-zA-Zµμ]+\.?\s?){1,3}(?:\^\{?[23]\}?)?(?:\s*/\s*[a-zA-Z]+(?:\^\{?[23]\}?)?)?)\s*$",
    re.DOTALL,
)
_SHORT = set(
    "cm mm km m g kg mg s h hr hrs min L l ml mL dL in ft yd mi lb lbs oz mph kph V W A K N J Pa Hz kW kWh".split()
)
_COUNT = set(
    "hundred thousand million billion trillion dozen dozens hundreds thousands millions billions half halves"
    " third thirds quarter quarters fourths fifths tenths hundredths minus plus times divided squared cubed mod over"
    " less more not than is isn or and to by of the factorial power root negative score pi e".split()
)
_ALIAS = {
    **{"centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "kilometer": "km", "kilometre": "km", "meter": "m"},
    **{"metre": "m", "gram": "g", "kilogram": "kg", "second": "s", "sec": "s", "hour": "h", "hr": "h", "minute": "min"},
    **{"inch": "in", "inche": "in", "feet": "ft", "foot": "ft", "yard": "yd", "mile": "mi", "pound": "lb", "lb": "lb"},
    **{"ounce": "oz", "degree": "deg", "liter": "l", "litre": "l", "milliliter": "ml", "dollar": "$", "usd": "$"},
    **{"euro": "€", "eur": "€", "cent": "cent", "unit": "", "year": "year", "day": "day"},
}


@dataclass(frozen=True)
class Words:
    """Text that is no mathematics, as it is compared."""

    text: str


@dataclass(frozen=True)
class Quantity:
    """One expression, with its unit ("" without) and whether it is in percent."""

    text: str
    value: Expression
    unit: str = ""
    percent: bool = False


@dataclass(frozen=True)
class Group:
    """Several forms. `kind`: "list", "union" (any order), "words", its brackets, "ratio", "row", "matrix", "base"."""

    kind: str
    parts: tuple[Form, ...]


@dataclass(frozen=True)
class Named:
    """What a variable is, or is in."""

    name: str
    form: Form


@dataclass(frozen=True)
class Relation:
    """`left - right` beside `=` or `<` or `\\le`, where that names no single variable."""

    sign: str
    difference: Expression


Form = Words | Quantity | Group | Named | Relation


def same(expected: str, answer: str) -> bool:
    """Whether an answer is the expected one."""
    if len(answer) > LONGEST or len(expected) > LONGEST:
        return False
    ours, theirs = clean(answer), clean(expected)
    if not ours or not theirs:
        return False
    return plain(ours) == plain(theirs) or _same(_read(theirs), _read(ours))


@lru_cache(maxsize=1024)
def _read(text: str) -> Form:
    return _form(text, 0)


def _form(text: str, deep: int) -> Form:
    text = text.strip()
    if deep > 8:
        return Words(plain(text))
    matrix = _MATRIX.fullmatch(text)
    if matrix and "\\begin" not in matrix[2]:
        rows = [row for row in re.split(r"\\\\", matrix[2]) if row.strip()]
        cells = [Group("row", tuple(_form(cell, deep + 1) for cell in row.split("&"))) for row in rows]
        return Group("matrix", tuple(cells))
    based = _BASE.fullmatch(text)
    if based:
        base = (based[2] or based[3] or based[4]).lower()
        base = {"two": "2", "eight": "8", "ten": "10", "sixteen": "16"}.get(base, base)
        return Group("base", (Words(based[1].lstrip("0").lower()), Words(base)))
    for read in (_union, _listed, _member, _equation, _inequality, _bracketed, _ratio):
        found = read(text, deep + 1)
        if found is not None:
            return found
    return _quantity(text, deep)


def _split(text: str, pattern: str) -> list[str]:
    """At the outermost matches of a pattern."""
    parts, start, level, at = [], 0, 0, 0
    compiled = re.compile(pattern)
    while at < len(text):
        found = compiled.match(text, at) if level == 0 else None
        if found and found.end() > at:
            parts.append(text[start:at])
            start = at = found.end()
            continue
        if text.startswith((r"\begin", r"\end"), at):
            level += 1 if text[at + 1] == "b" else -1
        level += (text[at] in "([{") - (text[at] in ")]}")
        at += 1
    return [*parts, text[start:]]


def _union(text: str, deep: int) -> Form | None:
    parts = _split(text, r"\\cup(?![a-zA-Z])")
    return Group("union", tuple(_form(part, deep) for part in parts)) if 1 < len(parts) <= _MOST_PARTS else None


def _listed(text: str, deep: int) -> Form | None:
    if text.startswith(r"\{") and text.endswith(r"\}") and len(text) > 4:
        text = text[2:-2].strip()
        if re.search(r"\\(?:mid|\{|\})|[:|]", text):
            return None
        return _many(_split(text, _ASIDE), deep) or Group("list", (_form(text, deep),))
    if re.fullmatch(r"[-+]?\s*\\?\$?\d{1,3}(,\d{3})+(\.\d+)?\s*(\\?%|[^,]*)", text):
        return None  # thousands
    return _many(_split(text, _ASIDE), deep)


def _many(parts: list[str], deep: int) -> Form | None:
    if not 1 < len(parts) <= _MOST_PARTS or not all(part.strip() for part in parts):
        return None
    forms = tuple(_form(part, deep) for part in parts)
    if (
        all(isinstance(each, Named) and isinstance(each.form, Group) for each in forms)
        and len({each.name for each in forms if isinstance(each, Named)}) == 1
    ):
        inner = tuple(each.form for each in forms if isinstance(each, Named))
        return Named(forms[0].name, Group("union", inner)) if isinstance(forms[0], Named) else None
    flat: list[Form] = []
    for each in forms:
        flat += each.parts if isinstance(each, Group) and each.kind == "list" else [each]
    return Group("words" if any(isinstance(each, Words) for each in flat) else "list", tuple(flat))


def _member(text: str, deep: int) -> Form | None:
    parts = _split(text, r"\\in(?![a-zA-Z])")
    if len(parts) != 2 or not _SYMBOL.fullmatch(parts[0].strip()):
        return None
    return Named(parts[0].strip(), _form(parts[1], deep))


def _equation(text: str, deep: int) -> Form | None:
    parts = [part.strip() for part in _split(text, "=")]
    if len(parts) < 2 or not all(parts) or _RELATION.search(text):
        return None
    if _LEFT.fullmatch(parts[0]) and len(parts) == 2:
        return Named(parts[0].replace(" ", ""), _form(parts[1], deep))
    forms = [_form(part, deep) for part in parts]
    values = [form for form in forms if isinstance(form, Quantity)]
    start = 1 if _LEFT.fullmatch(parts[0]) else 0
    if len(values) == len(forms) and (start or not any(form.value.names for form in values)):
        chain = values[start:]
        if all(_same(chain[0], form) for form in chain):
            return Named(parts[0], chain[-1]) if start else chain[-1]
        return None
    return _relation("=", parts[0], parts[1]) if len(parts) == 2 else None


def _relation(sign: str, left: str, right: str) -> Form | None:
    try:
        return Relation(sign, Expression(f"({left})-({right})"))
    except Unreadable:
        return None


def _inequality(text: str, deep: int) -> Form | None:
    signs = [found[0] for found in _RELATION.finditer(text)]
    parts = [part.strip() for part in _split(text, _RELATION.pattern)]
    if not 2 <= len(parts) <= 3 or len(signs) != len(parts) - 1 or not all(parts):
        return None
    if {sign in ("<", r"\le") for sign in signs} == {False}:
        signs, parts = [{">": "<", r"\ge": r"\le"}[sign] for sign in reversed(signs)], parts[::-1]
    if any(sign in (">", r"\ge") for sign in signs):
        return None
    if len(parts) == 2:
        if _SYMBOL.fullmatch(parts[1]) and not _SYMBOL.fullmatch(parts[0]):
            parts, signs = [*parts, r"\infty"], [*signs, "<"]
        elif _SYMBOL.fullmatch(parts[0]) and not _SYMBOL.fullmatch(parts[1]):
            parts, signs = [r"-\infty", *parts], ["<", *signs]
        else:
            return _relation(signs[0], *parts)
    if not _SYMBOL.fullmatch(parts[1]):
        return None
    kind = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
    return Named(parts[1], Group(kind, (_form(parts[0], deep), _form(parts[2], deep))))


def _bracketed(text: str, deep: int) -> Form | None:
    if len(text) < 5 or text[0] not in "([" or text[-1] not in ")]":
        return None
    parts = _split(text[1:-1], ",")
    if len(parts) < 2 or len(parts) > _MOST_PARTS or not all(part.strip() for part in parts):
        return None
    if text[1:-1].count("(") + text[1:-1].count("[") != text[1:-1].count(")") + text[1:-1].count("]"):
        return None
    return Group(text[0] + text[-1], tuple(_form(part, deep) for part in parts))


def _ratio(text: str, deep: int) -> Form | None:
    parts = _split(text, r":|\\colon|\\to(?=\s)")
    if len(parts) < 2 or len(parts) > _MOST_PARTS or not all(part.strip() for part in parts):
        return None
    forms = tuple(_form(part, deep) for part in parts)
    return None if any(isinstance(each, Words) for each in forms) else Group("ratio", forms)


def _quantity(text: str, deep: int) -> Form:
    if "\\pm" in text or "\\mp" in text:
        signs = re.compile(r"\\([pm])[pm](?![a-zA-Z])")
        upper = signs.sub(lambda found: "+" if found[1] == "p" else "-", text)
        lower = signs.sub(lambda found: "-" if found[1] == "p" else "+", text)
        both = (upper, lower)
        forms = tuple(_form(each.lstrip("+ "), deep + 1) for each in both)
        return Words(plain(text)) if any(isinstance(each, Words) for each in forms) else Group("list", forms)
    original, unit, percent = text, "", False
    currency = _CURRENCY.match(text)
    if currency:
        text, unit = currency[1] + text[currency.end() :], currency[2] or {"USD": "$", "EUR": "€"}[currency[3]]
    ended = re.search(r"\s*(?:\\?%|[Pp]ercent)$", text)
    if ended:
        text, percent = text[: ended.start()], True
    whole: Expression | None = None
    found = _UNIT.match(text)
    name = _unit(found["unit"], found["gap"]) if found else None
    if found and name is not None and not (unit and name not in ("", unit)):
        whole = _expression(found[1])
        if whole is not None and not whole.names:
            text, unit = found[1], unit or name
        else:
            whole = None
    whole = whole or _expression(text)
    if whole is None:
        return Words(plain(original))
    return Quantity(text.strip(), whole, unit, percent)


def _unit(text: str, gap: str) -> str | None:
    """A unit by one name; None if the words are none."""
    text = text.strip().rstrip(".")
    if "\\circ" in text:
        return "deg" + text.rpartition("c")[2].strip("} ")
    words = re.findall(r"[a-zA-Zµμ]+", text)
    if any(word.lower() in _COUNT for word in words):
        return None
    if len(words) == 1 and words[0] not in _SHORT and len(words[0]) < 3:
        return None
    if len(words[0]) == 1 and not gap:
        return None
    power = {"square": "^2", "sq": "^2", "cubic": "^3"}.get(words[0].lower(), "")
    named = [
        w if w in _SHORT and len(w) < 3 else w.lower().removesuffix("s") or w for w in (words[1:] if power else words)
    ]
    named = [_ALIAS.get(word, word) for word in named]
    found = re.search(r"\^\{?([23])", text)
    return ("/" if "/" in text else " ").join(named) + (f"^{found[1]}" if found else power if named != [""] else "")


@lru_cache(maxsize=4096)
def _expression(text: str) -> Expression | None:
    def mixed(found: re.Match[str]) -> str:
        above, below = found[2] or found[4], found[3] or found[5]
        return (
            f"({found[1]}+\\frac{{{above}}}{{{below}}})" if len(below) < 9 and int(above[:9]) < int(below) else found[0]
        )

    try:
        return Expression(_MIXED.sub(mixed, text))
    except Unreadable:
        return None


def _same(gold: Form, answer: Form, *, named: bool = False) -> bool:
    if isinstance(gold, Named):
        if isinstance(answer, Named):
            return gold.name == answer.name and _same(gold.form, answer.form)
        return not named and _same(gold.form, answer)
    if isinstance(answer, Named):
        return _same(gold, answer.form)
    if isinstance(gold, Quantity) and isinstance(answer, Quantity):
        return _same_quantity(gold, answer)
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        sign = proportional(gold.difference, answer.difference) if gold.sign == answer.sign else 0
        return sign > 0 or (sign < 0 and gold.sign == "=")
    if isinstance(gold, Group) and isinstance(answer, Group):
        if gold.kind != answer.kind or len(gold.parts) != len(answer.parts):
            return False
        if gold.kind not in ("list", "union"):
            return all(_same(one, other, named=True) for one, other in zip(gold.parts, answer.parts, strict=True))
        left = list(answer.parts)
        for part in gold.parts:
            found = next((each for each in left if _same(part, each, named=gold.kind == "list")), None)
            if found is None:
                return False
            left.remove(found)
        return True
    return isinstance(gold, Words) and isinstance(answer, Words) and gold.text == answer.text


def _same_quantity(gold: Quantity, answer: Quantity) -> bool:
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return False
    if gold.percent == answer.percent:
        return equal(gold.value, answer.value)
    if gold.percent:
        return equal(gold.value, answer.value) and not gold.value.names or _hundredth(gold, answer)
    return _hundredth(answer, gold) or (_whole(gold) and equal(gold.value, answer.value))


def _hundredth(percent: Quantity, bare: Quantity) -> bool:
    scaled = _expression(f"({percent.text})/(100)")
    return scaled is not None and equal(scaled, bare.value)


def _whole(quantity: Quantity) -> bool:
    value = quantity.value.value
    return value is not None and value == int(value.real) and abs(value) > 1
