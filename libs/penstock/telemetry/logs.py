"""Structured logs: one JSON object per line, with the service's and the run's name in each.

Modules log with `logging.getLogger(__name__)` and give fields by `extra={"group": ...}`; nothing else is needed.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object on one line: at, level, logger, message, constant fields, extra, error."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._fields,
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(service: str, *, run: str | None = None, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Sends the process's logs to `stream` (stderr by default). Call it once, first thing in `__main__`."""
    fields = {"service": service} | ({"run": run} if run else {})
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(fields))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("megatron", "uvicorn"):  # pages of settings at every start
        logging.getLogger(chatty).setLevel(logging.WARNING)
