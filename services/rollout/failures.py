"""Why a sample has no reward, where it is not generation."""


class RewardFailed(Exception):
    """The item has no score; the text says which reward and why."""


class EnvironmentFailed(Exception):
    """The environment could not play on, or the agent had no end of its own; the text says why."""
