"""The engines of a run as one, for whoever drives episodes: rollout for its own, the gateway for somebody's agent.

`engines` draws a turn over whichever replica is there; `pool` follows those who do one kind of work as they come and
go; `together` shares calls, `stopping` finds where a stop text ends.
"""
