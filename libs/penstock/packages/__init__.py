"""Packages of a user's own: what they add to the environment service and to trackers, outside our locks."""

from penstock.packages.overlay import Overlay

__all__ = ["Overlay"]
