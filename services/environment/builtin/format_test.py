from penstock.sdk import Invalid, Sample, Scored
from services.environment.builtin.format import matches_format


async def test_format_matches_the_whole_completion() -> None:
    row = {"pattern": r"<think>.*</think>\d+"}
    assert await matches_format.score(Sample("1", completion="<think>a\nb</think>42", row=row)) == Scored(1.0)
    assert await matches_format.score(Sample("1", completion="x<think></think>42", row=row)) == Scored(0.0)
    assert isinstance(await matches_format.score(Sample("1", row={"pattern": "("})), Invalid)
