"""Answers written alike: signs, spacing and synonyms of LaTeX, and how text is compared where it is no mathematics."""

import re

_SIGNS = {
    **dict.fromkeys("\u2212\u2013\u2014\u2010\u2011\ufe63\uff0d", "-"),
    **{
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "÷": "/",
        "π": r"\pi ",
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
    },
    **{"≠": r"\ne ", "∪": r"\cup ", "∈": r"\in ", "±": r"\pm ", "°": r"^\circ ", "∅": r"\emptyset ", "\u00a0": " "},
    **{"½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}"},
    **{each: f"^{{{number}}}" for number, each in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{"（": "(", "）": ")", "，": ", ", "：": ":", "％": "%", "\u2044": "/", "−": "-"},
}
_CLEAN: list[tuple[str, str]] = [
    (r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\s*\.?", ""),
    (r"(?<!\\)\\[,!:;](?:\s*)(?=\d{3}(?!\d))", ""),
    (r"(?<=\d)\{,\}(?=\d)", ","),
    (r"(?<=\d),\\!(?=\d)", ","),
    (r"(?<!\\)\\[ ,!:;]|~|\\q?quad(?![a-zA-Z])", " "),
    (r"\\(?:displaystyle|textstyle|limits)(?![a-zA-Z])", ""),
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\(?:leq|leqslant|leqq)(?![a-zA-Z])", r"\\le"),
    (r"\\(?:geq|geqslant|geqq)(?![a-zA-Z])", r"\\ge"),
    (r"\\neq(?![a-zA-Z])", r"\\ne"),
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\gt(?![a-zA-Z])", ">"),
    (r"\\(?:varnothing)(?![a-zA-Z])", r"\\emptyset"),
    (r"\\(?:lbrace)(?![a-zA-Z])", r"\\{"),
    (r"\\(?:rbrace)(?![a-zA-Z])", r"\\}"),
    (r"\\(?:degrees?)(?![a-zA-Z])", r"^\\circ"),
    (r"\\([lr])vert(?![a-zA-Z])|\\vert(?![a-zA-Z])", "|"),
    (r"\\(?:ldots|dots|cdots)(?![a-zA-Z])", "..."),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\bsqrt\s*\(", r"\\sqrt("),
    (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
    (r"(?<![\\a-zA-Z])(?:inf|infinity|oo)(?![a-zA-Z])", r"\\infty "),
    (r"\*\*(?=[\d({-])", "^"),
    (r"<=", r"\\le "),
    (r">=", r"\\ge "),
    (r"!=", r"\\ne "),
]
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|emph|textnormal|operatorname|boxed|bf|rm)\s*\{([^{}]*)\}"
)
_CLEANING = [(re.compile(pattern), put) for pattern, put in _CLEAN]


def clean(text: str) -> str:
    """An answer in the one way of writing that is read."""
    for sign, put in _SIGNS.items():
        text = text.replace(sign, put)
    text = text.strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        inner = text[len(opening) : -len(closing)]
        if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            text = inner if opening not in inner else text
    text = _TEXT.sub(r" \1 ", _TEXT.sub(r" \1 ", text))  # one within another
    for pattern, put in _CLEANING:
        text = pattern.sub(put, text)
    return " ".join(text.split()).strip().rstrip(".").strip("*` ")


def plain(text: str) -> str:
    """Text as it is compared: words without case, no spaces beside signs."""
    text = " ".join(text.replace("{", " { ").replace("}", " } ").split()).strip(" .")
    text = re.sub(r"(?<![a-zA-Z\d]) | (?![a-zA-Z\d])", "", text)
    lone = re.fullmatch(r"\(?([A-Za-z])\)?[.):]?", text)
    if lone:
        return lone[1]
    return text.casefold() if re.search(r"[a-zA-Z]{2}", text) and "\\" not in text else text
