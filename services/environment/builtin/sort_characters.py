"""`sort_characters`: the prompt's characters in ascending order. The smallest task on which RL visibly works.

1.0 if and only if the completion ended with the end token and equals the sorted prompt, else 0.0.
"""

from __future__ import annotations

from penstock.sdk import Sample, Scored, reward


@reward(minimum=0.0, maximum=1.0, timeout=5)
def sort_characters(sample: Sample) -> Scored:
    """Are the characters of the prompt sorted? 1 or 0."""
    prompt = str(sample.row["prompt"]) if "prompt" in sample.row else sample.prompt[-1].content
    finished = sample.finish_reason == "stop"
    return Scored(float(finished and sample.completion == "".join(sorted(prompt))), answer=sample.completion)
