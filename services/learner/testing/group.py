"""A small group of real ranks under the real launcher, to be killed and stopped by tests.

    python -m services.learner.testing.group launch HUNG_SECONDS COLLECTIVE_SECONDS BEHAVIOUR

Every rank says `ready RANK PID` on standard output when it has come to step 3, and goes on for ever; the behaviour
"stuck" makes rank 1 wait outside any collective then, "cannot" makes it find that it cannot go on, and with "ends" all
of them end well.
"""

import datetime
import os
import sys
import threading

import torch
import torch.distributed as dist

from penstock.system import exits
from penstock.system.parent_death import die_with_parent
from services.learner.ranks.launching import launch
from services.learner.ranks.meeting import notes, store
from services.learner.ranks.watching import Watch, leave


def wait_for_ever_outside_a_collective() -> None:
    threading.Event().wait()


def rank(hung_seconds: float, collective_seconds: float, behaviour: str) -> int:
    die_with_parent()
    torch.set_num_threads(1)
    world, timeout = int(os.environ["WORLD_SIZE"]), datetime.timedelta(seconds=collective_seconds)
    number = int(os.environ["RANK"])
    dist.init_process_group("gloo", store=store(world), rank=number, world_size=world, timeout=timeout)
    watch = Watch(notes(hung_seconds / 4), hung_seconds)
    step = 0
    try:
        while True:
            step += 1
            watch.at(f"step {step}")
            dist.all_reduce(torch.ones(1))
            if step == 3:
                sys.stdout.write(f"ready {dist.get_rank()} {os.getpid()}\n")
                sys.stdout.flush()
                if behaviour == "ends":
                    dist.barrier()
                    watch.stop()
                    dist.destroy_process_group()
                    return exits.DONE
                if dist.get_rank() == 1 and behaviour == "stuck":
                    wait_for_ever_outside_a_collective()
                if dist.get_rank() == 1 and behaviour == "cannot":
                    leave(ValueError("the recipe is wrong"), exits.BAD_INPUT)
    except RuntimeError as error:
        leave(RuntimeError(f"{error}; meanwhile {watch.whereabouts()}"), exits.FAILED)
        return exits.FAILED


def main() -> int:
    if sys.argv[1] == "launch":
        ranks = int(os.environ.get("PENSTOCK_TEST_RANKS", "2"))
        return launch(ranks, [sys.executable, "-m", "services.learner.testing.group", "rank", *sys.argv[2:]])
    return rank(float(sys.argv[2]), float(sys.argv[3]), sys.argv[4])


if __name__ == "__main__":
    sys.exit(main())
