"""Peak memory of log-probs and entropies over a large vocabulary, forward and backward: ours against plain torch.

2048 tokens of a 152 k vocabulary (Qwen's) from a hidden size of 256. Each side runs in a process of its own, which
reports how far its resident memory rose above what it held when hidden states, output weights and their gradient were
there already: what is counted is what the head needs beside them. Both must give the same numbers, or nothing is
reported.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import time

import torch
import torch.distributed as dist

from services.learner.backends.megatron_core.heads import token_logprobs
from tests.bench.report import Report

GIB = 2**30


def peak_bytes() -> int:
    """The most resident memory of this process since `reset_peak`."""
    found = re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def reset_peak() -> int:
    """Begins a new peak; gives what is resident now."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def plain(hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """What one writes by hand: all logits at once."""
    logp = torch.log_softmax(hidden[:, 0] @ weight.t(), -1)
    entropy = -(logp.exp() * logp).sum(-1)
    return torch.stack([logp.gather(1, target[:, None])[:, 0], entropy])


def ours(hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The learner's head."""
    rows, group = torch.arange(len(target)), dist.group.WORLD
    assert group is not None
    return torch.stack(
        token_logprobs(
            hidden,
            weight,
            rows,
            target,
            group,
            len(weight),
            sequence_parallel=False,
            temperature=1.0,
            chunk=None,
        )[:2]
    )


def measure(side: str, tokens: int, vocabulary: int, width: int) -> None:
    """One side in this process: peak and seconds of a forward and backward pass, and sums to compare, as JSON."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    torch.set_num_threads(1)
    made = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, 1, width, generator=made).requires_grad_()
    weight = (torch.randn(vocabulary, width, generator=made) / width**0.5).requires_grad_()
    target = torch.randint(0, vocabulary, (tokens,), generator=made)
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    before, began = reset_peak(), time.perf_counter()
    out = {"plain": plain, "ours": ours}[side](hidden, weight, target)
    (out[0].mean() + 0.1 * out[1].mean()).backward()
    seconds, peak = time.perf_counter() - began, peak_bytes() - before
    assert hidden.grad is not None and weight.grad is not None
    sums = [float(out[0].sum()), float(out[1].sum()), float(hidden.grad.norm()), float(weight.grad.norm())]
    sys.stdout.write(json.dumps({"peak": peak, "seconds": seconds, "sums": sums}) + "\n")


def main(args: argparse.Namespace) -> None:
    report = Report("head_memory", vars(args))
    results = {}
    for side in ("plain", "ours"):
        command = [sys.executable, "-m", "tests.bench.head_memory", "--side", side]
        command += [f"--tokens={args.tokens}", f"--vocabulary={args.vocabulary}", f"--width={args.width}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results[side] = json.loads(done.stdout.splitlines()[-1])
        report.add(side=side, peak_gib=results[side]["peak"] / GIB, seconds=results[side]["seconds"])
    for mine, theirs in zip(results["ours"]["sums"], results["plain"]["sums"], strict=True):
        if abs(mine - theirs) > 1e-3 * abs(theirs):
            raise SystemExit(f"the two sides disagree: {results}")
    ratio = results["ours"]["peak"] / results["plain"]["peak"]
    slower = results["ours"]["seconds"] / results["plain"]["seconds"]
    logits = args.tokens * args.vocabulary * 4 / GIB
    report.note(
        f"ours needs {ratio:.2f} of plain torch's memory and {slower:.2f} of its time; the logits: {logits:.2f} GiB"
    )
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--side", choices=["plain", "ours"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    measure(given.side, given.tokens, given.vocabulary, given.width) if given.side else main(given)
