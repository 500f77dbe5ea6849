"""Recipes from the configurations of other systems: what could be carried over, and why the rest could not.

    reading.py     a file as a flat mapping of dotted keys, references in it resolved
    carrying.py    what a conversion is made of: rows of a table, and keys that hang together
    nemo_rl.py     NeMo RL: its GRPO, DPO, SFT and reward model examples; nemo_rl_table.py has keys that stand alone
    trl.py         TRL: which trainer, and what all have alike; trl_rollouts.py and trl_rows.py have the trainers' own
    verl.py        verl: its PPO trainer; verl_table.py has keys that stand alone

Every key of a configuration ends in one of two places: in the recipe, or in `said`, a line of its own. A key that no
table knows is said to be unknown, so that nothing is dropped silently. What a configuration leaves out means what that
system means by it, so defaults that differ are written out.
"""

from penstock.migrate.carrying import Converted
from penstock.migrate.convert import FRAMEWORKS, convert
from penstock.migrate.reading import CannotRead, read

__all__ = ["FRAMEWORKS", "CannotRead", "Converted", "convert", "read"]
