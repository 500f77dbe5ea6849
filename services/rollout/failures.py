"""Why a sample has no reward."""


class RewardFailed(Exception):
    """The item has no score; the text says which reward and why."""
