"""How many GPUs a host has, as their driver says."""

import pathlib

DRIVER = pathlib.Path("/proc/driver/nvidia/gpus")
WINDOWS = pathlib.Path("/dev/dxg")
"""Where Windows lends its own to Linux, whose driver is not there then; how many they are is not said."""


def gpus(driver: pathlib.Path = DRIVER, windows: pathlib.Path = WINDOWS) -> int:
    """0 where there is no driver."""
    return len(list(driver.iterdir())) if driver.is_dir() else int(windows.exists())
