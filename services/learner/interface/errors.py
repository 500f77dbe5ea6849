"""Ends that starting the learner again would not mend: the supervisor then fails the run, with the message."""


class CannotGoOn(RuntimeError):
    """The run cannot go on by itself: somebody must change the recipe, the data or the machine. Nothing is lost: the
    last checkpoint and the log are as they were."""


class AnotherLearner(CannotGoOn):
    """A later learner trains this run: this one must end, and must not be started again."""


class LayoutError(ValueError):
    """The parallel sizes do not fit the model, the backend or the number of ranks."""


class UnsupportedModel(ValueError):
    """The directory holds no model, one that the learner does not implement, or one that it would train as another."""
