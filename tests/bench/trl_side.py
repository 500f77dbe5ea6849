"""TRL's GRPOTrainer on the quickstart's task, in its own virtual environment; the other half of `trl`.

Its settings are those that were fastest for it on this task and size of machine: Hugging Face generate with eager
attention, bfloat16 autocast, one thread. Batch, group size, learning rate, warm-up, temperature and clip are the
quickstart's. One line per optimizer step goes to the output: {"step", "seconds", "reward"}, in seconds since `train`
began.
"""

import argparse
import json
import pathlib
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

PROMPTS, GROUP = 32, 8


def sorted_characters(
    completions: list[Any], answer: list[str], completion_ids: list[list[int]], **_: Any
) -> list[float]:
    """1 if the completion ended and is the sorted prompt, as `services/environment/builtin/sort_characters.py`."""
    texts = [c[0]["content"] if isinstance(c, list) else c for c in completions]
    return [float(t == a and ids[-1] == END) for t, a, ids in zip(texts, answer, completion_ids, strict=True)]


END = 2  # <|end|> of the tiny tokenizer


class Clock(TrainerCallback):
    """Writes a line whenever the trainer logs a step; stops once the mean of the last five rewards is high enough."""

    def __init__(self, path: pathlib.Path, stop_at: float) -> None:
        self._file, self._stop_at = path.open("w"), stop_at
        self._began = time.time()
        self._rewards: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.time()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs is None or "reward" not in logs:
            return
        line = {"step": state.global_step, "seconds": time.time() - self._began, "reward": float(logs["reward"])}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._rewards.append(line["reward"])
        if len(self._rewards) >= 5 and sum(self._rewards[-5:]) / 5 >= self._stop_at:
            control.should_training_stop = True


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager")
    rows = [json.loads(line) for line in (args.data).read_text().splitlines()]
    data = Dataset.from_list(
        [{"prompt": [{"role": "user", "content": r["prompt"]}], "answer": r["answer"]} for r in rows]
    )
    config = GRPOConfig(
        output_dir=str(args.output.parent / "trl-output"),
        use_cpu=True,
        bf16=True,
        per_device_train_batch_size=args.micro_batch,
        gradient_accumulation_steps=PROMPTS * GROUP // args.micro_batch,
        num_generations=GROUP,
        max_completion_length=48,
        temperature=1.0,
        learning_rate=3e-4,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=5,
        adam_beta2=0.999,
        max_grad_norm=1.0,
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.28,
        loss_type="dapo",
        max_steps=args.steps,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        seed=args.seed,
        disable_tqdm=True,
        gradient_checkpointing=False,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=sorted_characters,
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[Clock(args.output, args.stop_at)],
    )
    trainer.train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--stop-at", type=float, default=0.91)
    parser.add_argument("--micro-batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args())
