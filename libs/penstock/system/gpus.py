"""How many GPUs a host has, as their driver says."""

import pathlib

DRIVER = pathlib.Path("/proc/driver/nvidia/gpus")


def gpus(driver: pathlib.Path = DRIVER) -> int:
    """0 where there is no driver."""
    return len(list(driver.iterdir())) if driver.is_dir() else 0
