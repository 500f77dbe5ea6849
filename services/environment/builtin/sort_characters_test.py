from penstock.sdk import Invalid, Message, Sample, Scored
from services.environment.builtin.sort_characters import sort_characters


async def test_sort_characters_wants_the_sorted_prompt_and_an_end() -> None:
    prompt = (Message("user", "c3faz0"),)
    assert await sort_characters.score(Sample("1", prompt, "03acfz")) == Scored(1.0, answer="03acfz")
    assert await sort_characters.score(Sample("1", prompt, "03acfz", "length")) == Scored(0.0, answer="03acfz")
    assert await sort_characters.score(Sample("1", prompt, "03acf")) == Scored(0.0, answer="03acf")
    assert await sort_characters.score(Sample("1", row={"prompt": "ba"}, completion="ab")) == Scored(1.0, answer="ab")
    assert isinstance(await sort_characters.score(Sample("1")), Invalid)
