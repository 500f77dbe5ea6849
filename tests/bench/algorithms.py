"""Every algorithm's recipe (deploy/recipes/algorithms) from one warm start: held-out accuracy before and after.

This says that each method works, not which is best: steps are few, the task is easy, settings are mostly defaults.
`--only cispo,gspo` runs some; a run that has finished is not run again (remove runs/bench/algorithms-* for that).
"""

import argparse
import json
import pathlib
import shutil
import statistics
import sys

from tests.bench.quickstart import RECIPES, RUNS, train, warm_start
from tests.bench.report import Report


def main(args: argparse.Namespace) -> int:
    report = Report("algorithms", vars(args))
    model, assets = warm_start(args.warm_start)
    names = args.only.split(",") if args.only else sorted(p.stem for p in (RECIPES / "algorithms").glob("*.yaml"))
    failures = 0
    for name in names:
        folder = RUNS / f"algorithms-{name}"
        try:
            if not (folder / "export").is_dir():
                run(name, model, assets, args.steps)
        except RuntimeError as error:
            report.note(str(error))
            report.add(recipe=name)
            failures += 1
            continue
        steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        before, *_, after = (e["reward"] for e in json.loads((folder / "summary.json").read_text())["eval"])
        report.add(
            recipe=name,
            before=before,
            after=after,
            points=100 * (after - before),
            reward_first=statistics.fmean(s["rl.reward.mean"] for s in steps[:5]),
            reward_last=statistics.fmean(s["rl.reward.mean"] for s in steps[-5:]),
            staleness=statistics.fmean(s["rl.staleness.mean"] for s in steps),
        )
    report.note("accuracy on the same held-out prompts at version 0 and at the last; rewards: mean of five steps")
    report.finish()
    return 1 if failures else 0


def run(name: str, model: pathlib.Path, assets: pathlib.Path, steps: int) -> None:
    """One recipe to its end; what it leaves is small. Raises RuntimeError if it fails."""
    paths = (f"model.path={model}", f"data.train={assets / 'train.jsonl'}", f"data.eval={assets / 'eval.jsonl'}")
    shape = (f"algorithm.steps={steps}", f"evaluation.every={steps}", "telemetry.tensorboard=false")
    folder = train(f"algorithms/{name}", f"algorithms-{name}", *paths, *shape).folder
    for heavy in ("versions", "nats", "checkpoints"):
        shutil.rmtree(folder / heavy, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--only", help="names of recipes, with commas")
    parser.add_argument("--warm-start", type=pathlib.Path, help="folder of runs with a finished quickstart-sft")
    sys.exit(main(parser.parse_args()))
