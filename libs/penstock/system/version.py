"""The version that programs show and wheels carry; said here and nowhere else."""

VERSION = "0.1.0"
