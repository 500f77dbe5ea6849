import io
import json
import logging

import pytest

from penstock.telemetry import logs


@pytest.fixture(autouse=True)
def _restore() -> object:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = before, level


def test_an_event_is_one_json_line_with_its_fields() -> None:
    stream = io.StringIO()
    logs.configure("learner", run="r1", stream=stream)
    logging.getLogger("a.b").info("step %d\nended", 3, extra={"group": 7, "path": object})
    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    assert (event["service"], event["run"], event["group"], event["level"]) == ("learner", "r1", 7, "info")
    assert event["message"] == "step 3\nended" and event["logger"] == "a.b"


def test_an_exception_is_kept() -> None:
    stream = io.StringIO()
    logs.configure("learner", stream=stream)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("x").exception("it broke")
    assert "ValueError: why" in json.loads(stream.getvalue())["error"]
