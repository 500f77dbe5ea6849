"""What a run's directory knows of its trackers: the run's id there, and how far each was told (`trackers.json`).

Written by the threads of the trackers, so that a resumed run goes on in the same run and says nothing twice. A process
that is killed between a tracker's taking and this file's writing says one step twice.

Invariant (test name): the id is made once, at the run's first start, and holds user, host and time.
"""

import datetime
import getpass
import json
import logging
import pathlib
import re
import socket
import threading
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)
_LONGEST = 100
FILE = "trackers.json"


def made_id(run: str, user: str, host: str, at: datetime.datetime) -> str:
    """run-user-host-time, of characters that every tracker takes."""
    who = re.sub(r"[^A-Za-z0-9_\-]", "-", f"{run}-{user}-{host.partition('.')[0]}")[:_LONGEST]
    return f"{who}-{at:%Y%m%dT%H%M%S%f}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "user"


class Notes:
    """The notes of one run, shared by the threads of its trackers."""

    def __init__(self, folder: pathlib.Path, run: str) -> None:
        self._path, self._lock = folder / FILE, threading.Lock()
        self._told: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            read = json.loads(self._path.read_text())
            self.id, self._told = str(read["id"]), dict(read["told"])
        else:
            self.id = made_id(run, _user(), socket.gethostname(), datetime.datetime.now(datetime.UTC))
            self._write()

    def step(self, name: str) -> int:
        """The newest step that the tracker has; 0 before the first."""
        with self._lock:
            return int(self._of(name)["step"])

    def evaluations(self, name: str) -> frozenset[int]:
        """The versions whose evaluations the tracker has."""
        with self._lock:
            return frozenset(self._of(name)["evaluations"])

    def took_step(self, name: str, step: int) -> None:
        """The tracker has this step."""
        self._note(name, {"step": step})

    def took_evaluation(self, name: str, step: int) -> None:
        """The tracker has the evaluation of this version."""
        self._note(name, {"evaluations": sorted({*self.evaluations(name), step})})

    def _note(self, name: str, what: Mapping[str, Any]) -> None:
        with self._lock:
            self._told[name] = {**self._of(name), **what}
            self._write()

    def _of(self, name: str) -> dict[str, Any]:
        return self._told.get(name, {"step": 0, "evaluations": []})

    def _write(self) -> None:
        temporary = self._path.with_suffix(".json.tmp")
        try:
            temporary.write_text(json.dumps({"id": self.id, "told": self._told}) + "\n")
            temporary.replace(self._path)
        except OSError as error:  # a full disk: the next note has all of this
            logger.warning("%s cannot be written, so trackers may be told twice: %s", self._path, error)
