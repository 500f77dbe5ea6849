"""The proximal policy without a forward pass of its own, from what is known anyway."""

from torch import Tensor


def interpolated(current: Tensor, behaviour: Tensor, age: Tensor) -> Tensor:
    """[T]: p = g + a / (a + 1) · (c − g), detached; a [T] is how many versions older than the trained one the token is.

    The log-probability is taken to move evenly from the version that drew the token (a + 1 steps before the one being
    made) to the weights being trained; the proximal policy stands one step before those. A fresh token (a = 0) has its
    own policy as proximal one. Source: AReaL, "Proximal Log-Probability Approximation" (log-linear in versions).
    """
    share = age / (age + 1)
    return (behaviour + share * (current - behaviour)).detach()
