"""Whether a run waits for what a person decides of a version, and says so before anybody wonders. Pure.

    the next batch must be drawn by version L or newer  >  what is served, and nothing newer may yet be promoted

A version that nobody has decided of may be: it is tried. One that a rollback took back may not: it waits for a person.
What is in flight then may still be a batch, if it was drawn before; nothing more can be drawn. (A version that
weight_sync has dropped meanwhile is not tried either; such a run stalls without these words.)
"""

from penstock.ledger import Ledger
from penstock.recipes import Recipe


def standstill(ledger: Ledger, recipe: Recipe, rejected: int = -1) -> str:
    """Why nothing goes on until a person promotes a version; empty while something may. rejected: a version that is
    about to be, as the ledger does not know yet."""
    bound, served = recipe.staleness.max_versions, ledger.served
    least = ledger.step - bound
    if ledger.step >= recipe.steps or least <= served or not ledger.next_number:
        return ""
    wanted = f"the next batch must be drawn by version {least} or newer (staleness.max_versions {bound})"
    if ledger.rolled_back >= 0:
        which = "one" if recipe.canary is not None else "a newer one"  # what waits is tried, where versions are
        return f"version {served} is served since a rollback, and {wanted}: `penstock promote` {which}"
    newer = range(max(served + 1, least), ledger.step + 1)
    taken_back = [step for step in newer if step in ledger.taken_back]
    if recipe.canary is None or not all(s == rejected or ledger.rejected(s) or s in taken_back for s in newer):
        return ""
    what = "were rejected or taken back by a rollback" if taken_back else "were rejected"
    return (
        f"version {served} is served, all that are newer {what}, and {wanted}: `penstock promote` one of them, "
        "or go on from an older checkpoint with `penstock fork`"
    )
