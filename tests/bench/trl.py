"""Time to accuracy: the quickstart's GRPO stage against TRL's GRPOTrainer, from the same warm start, in turn.

Accuracy is the mean reward of the last five steps' own samples: 1,280 completions for prompts that were never trained
on before (a run sees less than one pass), so neither side pays for evaluation. Ours lags by up to two versions under
this measure, which counts against us. Time is told twice: from the moment each could draw its first token (TRL: `train`
began; ours: the engine was up), and from its command, start-up of all processes included. A perfect policy gets 1.0.
"""

import argparse
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Sequence

from tests.bench.quickstart import RUNS, grpo, warm_start
from tests.bench.report import Report

LEVELS = (0.7, 0.8, 0.9)
WINDOW = 5


def reached(seconds: Sequence[float], rewards: Sequence[float], level: float) -> float | None:
    """The second at which the mean of WINDOW rewards first is at `level`; None if it never is."""
    for i in range(WINDOW - 1, len(rewards)):
        if sum(rewards[i - WINDOW + 1 : i + 1]) / WINDOW >= level:
            return seconds[i]
    return None


def trl(model: pathlib.Path, assets: pathlib.Path, steps: int, seed: int) -> tuple[list[float], list[float], float]:
    """TRL's (seconds since it could draw, rewards, seconds of start-up)."""
    program = os.environ["PENSTOCK_BENCH_TRL"]
    output = (RUNS / f"trl-steps-{seed}.jsonl").absolute()
    command = [os.path.join(os.environ.get("PENSTOCK_RUNFILES", ""), program), "--model", str(model.absolute())]
    command += ["--data", str((assets / "train.jsonl").absolute()), "--output", str(output)]
    launched = time.time()
    done = subprocess.run([*command, "--steps", str(steps), "--seed", str(seed)], capture_output=True, text=True)
    ended = time.time()
    if done.returncode:
        raise RuntimeError(f"TRL ended with {done.returncode}: {done.stderr[-2000:]}")
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    seconds = [line["seconds"] for line in lines]
    return seconds, [line["reward"] for line in lines], max(0.0, ended - launched - seconds[-1])


def main(args: argparse.Namespace) -> None:
    report = Report("trl", vars(args))
    model, assets = warm_start(args.warm_start)
    for seed in range(args.rounds):
        run = grpo(f"trl-ours-{seed}", model, assets, f"algorithm.steps={args.steps}", f"data.seed={seed}")
        mine = (
            [s["time"] - run.engine for s in run.steps],
            [s["rl.reward.mean"] for s in run.steps],
            run.engine - run.launched,
        )
        theirs = trl(model, assets, args.trl_steps, seed)
        for level in LEVELS:
            a, b = reached(*mine[:2], level), reached(*theirs[:2], level)
            report.add(
                round=seed,
                accuracy=level,
                ours_s=a,
                trl_s=b,
                ratio=None if a is None or b is None else a / b,
                ratio_with_start=None if a is None or b is None else (a + mine[2]) / (b + theirs[2]),
            )
        report.note(
            f"round {seed}: ours {len(mine[0])} steps, {mine[0][-1] / len(mine[0]):.2f} s each, "
            f"start-up {mine[2]:.0f} s; "
            f"TRL {len(theirs[0])} steps, {theirs[0][-1] / len(theirs[0]):.2f} s each, start-up {theirs[2]:.0f} s"
        )
    report.note("seconds until the accuracy; ratio: ours / TRL (less than 1: we are faster)")
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=90, help="optimizer steps of our run")
    parser.add_argument("--trl-steps", type=int, default=150, help="at most; TRL stops once it is at 0.91")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--warm-start", type=pathlib.Path, help="folder of runs with a finished quickstart-sft")
    main(parser.parse_args())
