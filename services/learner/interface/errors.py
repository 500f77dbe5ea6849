"""How a learner says that starting it again would end the same way; the supervisor then fails the run."""


class CannotGoOn(RuntimeError):
    """The run cannot go on by itself: somebody must change the recipe, the data or the machine. Nothing is lost: the
    last checkpoint and the log are as they were."""
