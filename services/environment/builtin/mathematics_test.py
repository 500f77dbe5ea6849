from penstock.sdk import Invalid, Sample, Scored
from services.environment.builtin.mathematics import mathematics


async def test_math_judges_equality_not_text() -> None:
    def sample(completion: str, answer: str) -> Sample:
        return Sample("1", completion=completion, row={"answer": answer})

    assert await mathematics.score(sample(r"so the answer is $\frac{2}{4}$", r"$\frac{1}{2}$")) == Scored(
        1.0, {"parsed": 1.0}, "equal to the row's"
    )
    wrong = await mathematics.score(sample("I think it is $3$", "4"))
    assert isinstance(wrong, Scored) and wrong.value == 0.0
    assert isinstance(await mathematics.score(Sample("1", completion="$1$")), Invalid)
