"""What overlapping generation and training is worth: the same task with staleness 0 and 2, through the whole system.

Both are the quickstart's GRPO stage with every real service. With `staleness.max_versions: 0` the learner waits for
generation and generation for the learner, in turn; with 2 they work at the same time. The first step of each run is not
counted: it holds the engine's start. The gain is bounded by the cores: where both halves want all of them (a laptop),
overlap has little to hide; it can approach 2 where they have machines of their own and take equally long.
"""

import argparse
import pathlib
import statistics

from tests.bench.quickstart import Run, grpo, warm_start
from tests.bench.report import Report


def seconds_per_step(run: Run) -> list[float]:
    """Wall clock from step to step, without the first."""
    times = [step["time"] for step in run.steps]
    return [after - before for before, after in zip(times, times[1:], strict=False)]


def main(args: argparse.Namespace) -> None:
    report = Report("overlap", vars(args))
    model, assets = warm_start(args.warm_start)
    pairs = []
    for turn in range(args.rounds):
        by_staleness = {}
        for staleness in (0, 2):
            run = grpo(
                f"overlap-{staleness}-{turn}",
                model,
                assets,
                f"staleness.max_versions={staleness}",
                f"algorithm.steps={args.steps}",
            )
            seconds = seconds_per_step(run)
            by_staleness[staleness] = sum(seconds)
            report.add(
                round=turn,
                staleness=staleness,
                steps=len(run.steps),
                step_median_s=statistics.median(seconds),
                total_s=sum(seconds),
                learner_s_per_step=statistics.median(s["rl.train.seconds"] for s in run.steps[1:]),
                staleness_mean=statistics.fmean(s["rl.staleness.mean"] for s in run.steps[1:]),
                reward_last=statistics.fmean(s["rl.reward.mean"] for s in run.steps[-5:]),
            )
        pairs.append(by_staleness[0] / by_staleness[2])
    report.note(f"synchronous / asynchronous time of the same steps, per round: {', '.join(f'{p:.2f}' for p in pairs)}")
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--warm-start", type=pathlib.Path, help="folder of runs with a finished quickstart-sft")
    main(parser.parse_args())
