"""Stop texts over characters and over a byte-level vocabulary, however an engine cuts its chunks."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from penstock.replicas.stopping import StopTexts


def characters(tokens: Sequence[int]) -> str:
    return "".join(map(chr, tokens))


def utf8(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode(errors="replace")


def run(stops: StopTexts, tokens: list[int], cuts: list[int]) -> list[int]:
    """What is kept of `tokens` that come in chunks of these sizes, the last as long as need be."""
    kept: list[int] = []
    while tokens:
        size = cuts.pop(0) if cuts else len(tokens)
        new, tokens = tokens[:size], tokens[size:]
        end = stops.end(kept, new)
        kept += new[:end]
        if end is not None:
            break
    return kept


def test_nothing_stops_without_stop_texts() -> None:
    assert StopTexts((), characters).end([1], [2, 3]) is None


def test_the_token_that_completes_the_text_is_the_last() -> None:
    stops = StopTexts(("</a>", "zz"), lambda tokens: "".join(["<a>", "</", "a> and", " more"][t] for t in tokens))
    assert stops.end([0, 1], [2, 3]) == 1


@given(st.text("abc<", max_size=40), st.lists(st.integers(1, 7)), st.sampled_from(["a<", "abc", "cc", "<<a"]))
def test_it_ends_at_the_first_stop_text_however_chunks_are_cut(text: str, cuts: list[int], stop: str) -> None:
    kept = run(StopTexts((stop,), characters), [ord(c) for c in text], cuts)
    whole = text[: text.index(stop) + len(stop)] if stop in text else text
    assert characters(kept) == whole


@given(st.text("aé漢", max_size=20), st.lists(st.integers(1, 5)))
def test_a_text_of_many_bytes_is_found_though_a_token_is_a_part_of_a_character(text: str, cuts: list[int]) -> None:
    kept = run(StopTexts(("é漢",), utf8), list(text.encode()), cuts)
    whole = text[: text.index("é漢") + 2] if "é漢" in text else text
    assert utf8(kept) == whole
