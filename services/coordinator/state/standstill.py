"""Whether a run waits for what a person decides of a version, and says so before anybody wonders. Pure.

    the next batch must be drawn by version L or newer  >  what is served, and nothing newer may yet be promoted

A version that nobody has decided of may be: it is tried. (One that weight_sync has dropped meanwhile is not; such a run
stalls without these words.)
"""

from penstock.ledger import Ledger
from penstock.recipes import Recipe


def standstill(ledger: Ledger, recipe: Recipe, rejected: int = -1) -> str:
    """Why nothing goes on until a person promotes a version; empty while something may. rejected: a version that is
    about to be, as the ledger does not know yet."""
    bound, served = recipe.staleness.max_versions, ledger.served
    least = ledger.step - bound
    goes_on = ledger.step >= recipe.steps or len(ledger.in_flight) >= recipe.algorithm.groups_per_step
    if goes_on or least <= served or not ledger.next_number:
        return ""
    wanted = f"the next batch must be drawn by version {least} or newer (staleness.max_versions {bound})"
    if ledger.rolled_back >= 0:
        return f"version {served} is served since a rollback, and {wanted}: `penstock promote` one"
    newer = range(max(served + 1, least), ledger.step + 1)
    if recipe.canary is None or not all(step == rejected or ledger.rejected(step) for step in newer):
        return ""
    return (
        f"version {served} is served, all that are newer were rejected, and {wanted}: `penstock promote` one of them, "
        "or go on from an older checkpoint with `penstock fork`"
    )
