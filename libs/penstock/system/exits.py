"""What a program of the house says by its exit code. In one place, because whoever starts one acts on it.

The supervisor starts a service again unless it ended with BAD_INPUT; torchrun's agent, `penstock train` and scripts
around it tell the same codes apart.
"""

DONE = 0
"""The work is done, or somebody asked for the end."""
FAILED = 1
"""It may go well another time: a rank died, the disk was full, a port was lost."""
BAD_INPUT = 2
"""Starting it again would end the same way: a recipe, a flag or a file must change first."""
RANK_LOST = 3
"""Of one rank to its launcher: another rank was found hung, and this one only ends with it."""
OUT_OF_MEMORY = 4
"""The kernel killed a part of it for lack of memory."""
