"""Which start of which machine this is: two processes that read the same are on one host."""

import pathlib


def boot_id() -> str | None:
    """The kernel's; None where it tells none. Containers on one host share it."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None
