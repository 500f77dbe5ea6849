"""Numbers that nobody honest reaches, and beyond which arithmetic or an order of versions would break.

A mean over rewards of 1e308 overflows, a variance over 1e200 does; a step or epoch near 2^63 would be newer than
everything that ever comes. Whoever takes numbers from others compares them with these before they are used.
"""

MOST_STEP = 2**31 - 1
"""Of optimizer steps, and of versions."""
MOST_EPOCH = 2**31 - 1
"""Of a learner's incarnations."""
LEAP = 2**20
"""Of epoch or step from the newest version to the next: who leaps further would leave no room for those to come."""
MOST_NUMBER = 2**62
"""Of rows, draws and sequences: one can still be added to it in 64 bits."""
MOST_GROUP = 65536
"""Samples of a group."""
LARGEST_REWARD = 1e9
"""Of a reward, its parts and their weights: means and variances must not overflow, nor one drown the others."""
ROW_REWARDS = 100
"""Mean rewards of one row that are remembered, the newest."""
MOST_COMPONENTS = 64
"""Parts of one reward."""
LONGEST_NAME = 128
"""Characters of a name that somebody else gave."""
