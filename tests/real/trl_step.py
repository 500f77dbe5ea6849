"""TRL's step on the batch that `our_step` made: its GRPOTrainer's own loss, AdamW, one thread.

python -m tests.real.trl_step MODEL BATCH RESULT --dtype float32 --steps 3 --rows 8
"""

import argparse
import json
import pathlib
import resource
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

RATE = 5e-6


def inputs(rows: list[dict[str, Any]], trained: int) -> dict[str, torch.Tensor]:
    """A micro-batch as the trainer makes them: prompts padded on the left, answers on the right."""
    longest = [max(len(row[part]) for row in rows) for part in ("prompt", "answer")]

    def padded(part: str, to: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = torch.zeros(len(rows), to, dtype=torch.long), torch.zeros(len(rows), to, dtype=torch.long)
        for i, row in enumerate(rows):
            n = len(row[part])
            where = slice(to - n, to) if left else slice(0, n)
            ids[i, where], mask[i, where] = torch.tensor(row[part]), 1
        return ids, mask

    prompt, prompt_mask = padded("prompt", longest[0], True)
    answer, answer_mask = padded("answer", longest[1], False)
    return {
        "prompt_ids": prompt,
        "prompt_mask": prompt_mask,
        "completion_ids": answer,
        "completion_mask": answer_mask,
        "advantages": torch.tensor([row["advantage"] for row in rows]),
        "num_items_in_batch": torch.tensor(trained),
    }


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    rows = json.loads(args.batch.read_text())
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    config = GRPOConfig(
        output_dir=str(args.result.parent / "trl-output"),
        use_cpu=True,
        bf16=args.dtype == "bfloat16",
        per_device_train_batch_size=args.rows,
        gradient_accumulation_steps=len(rows) // args.rows,
        num_generations=8,
        max_completion_length=24,
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.28,
        loss_type="dapo",
        report_to=[],
        gradient_checkpointing=False,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 8),
        processing_class=AutoTokenizer.from_pretrained(args.model, padding_side="left"),
    )
    trainer.current_gradient_accumulation_steps = len(rows) // args.rows
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.999), weight_decay=0.0, fused=True)
    trained = sum(len(row["answer"]) for row in rows)
    model.train()
    seconds = []
    for _ in range(args.steps):
        began = time.process_time()
        for i in range(0, len(rows), args.rows):
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, inputs(rows[i : i + args.rows], trained))
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.process_time() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    args.result.write_text(json.dumps({"seconds": seconds, "peak": peak, "logprob": _logprob(model, rows) / trained}))


@torch.no_grad()
def _logprob(model: Any, rows: list[dict[str, Any]]) -> float:
    total = 0.0
    for row in rows:
        ids = torch.tensor([row["prompt"] + row["answer"]])
        said = torch.log_softmax(model(ids).logits[0, :-1].float(), -1).gather(-1, ids[0, 1:, None])[:, 0]
        total += float(said[len(row["prompt"]) - 1 :].sum())
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "batch", "result"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rows", type=int, default=8, help="of a micro-batch; TRL's default is 8")
    main(parser.parse_args())
