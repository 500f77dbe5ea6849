"""A reward model from ranked answers, then GRPO against it: held-out order, then what the checker says, held out too.

What is reported beside the accuracy is what the reward model says of the same held-out answers: where that rises and
accuracy falls, the policy has found what the model overlooks. `--kl 0 --steps 60` shows it.
"""

import argparse
import json
import pathlib
import sys

from tests.bench.quickstart import RUNS, train, warm_start
from tests.bench.report import Report

NAME = "quickstart-reward-model"


def main(args: argparse.Namespace) -> int:
    report = Report("reward_model", vars(args))
    model, assets = warm_start(args.warm_start)
    start = f"model.path={model}"
    if not (RUNS / NAME / "export").is_dir():
        train(NAME, NAME, start, f"data.train={assets / 'ranked.jsonl'}", f"data.eval={assets / 'ranked-eval.jsonl'}")
    for e in json.loads((RUNS / NAME / "summary.json").read_text())["eval"]:
        report.add(run="reward model", step=e["step"], accuracy=e["accuracy"], loss=e["loss"], margin=e["margin"])
    served = {"name": "preference", "model": {"path": str(RUNS / NAME / "export")}, "timeout_seconds": 120}
    rewards = json.dumps([served, {"name": "sort_characters", "weight": 0.0}])  # JSON is YAML
    paths = (start, f"data.train={assets / 'train.jsonl'}", f"data.eval={assets / 'eval.jsonl'}")
    shape = (f"algorithm.steps={args.steps}", f"algorithm.loss.kl.coefficient={args.kl}")
    grpo = "quickstart-grpo-reward-model"
    run = train(grpo, grpo, *paths, f"environment.rewards={rewards}", *shape)
    for e in json.loads((run.folder / "summary.json").read_text())["eval"]:
        report.add(run="grpo", step=e["step"], accuracy=e["component.sort_characters"], says=e["component.preference"])
    report.note("reward model: share of held-out pairs in the right order; grpo: the checker's accuracy, held out")
    report.finish()
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30, help="of GRPO")
    parser.add_argument("--kl", type=float, default=0.05, help="the pull towards the warm start")
    parser.add_argument("--warm-start", type=pathlib.Path, help="folder of runs with a finished quickstart-sft")
    sys.exit(main(parser.parse_args()))
