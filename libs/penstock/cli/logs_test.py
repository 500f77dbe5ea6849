"""Logs of a run's services as one stream."""

import json
import pathlib

import pytest
from typer.testing import CliRunner

from penstock.cli.commands.logs import Reading
from penstock.cli.main import app


def line(at: str, message: str, level: str = "info", **more: object) -> str:
    return json.dumps({"at": at, "level": level, "logger": "x", "message": message, "service": "s", **more}) + "\n"


@pytest.fixture
def runs(tmp_path: pathlib.Path) -> pathlib.Path:
    logs = tmp_path / "r" / "logs"
    logs.mkdir(parents=True)
    (logs / "rollout-0.log").write_text(line("01", "a", group="g1") + "Traceback of a library\n" + line("04", "d"))
    (logs / "learner.log").write_text(line("02", "b", "warning") + line("03", "c", "debug") + line("05", "e")[:-3])
    return tmp_path


def said(runs: pathlib.Path, *words: str) -> list[str]:
    done = CliRunner().invoke(app, ["logs", "r", "--runs", str(runs), *words])
    assert done.exit_code == 0, done.output
    return [each.rstrip() for each in done.output.splitlines()]


def test_lines_are_merged_by_time_and_half_a_line_waits(runs: pathlib.Path) -> None:
    assert said(runs) == [
        "01  rollout-0      a group=g1",
        "01  rollout-0      Traceback of a library",
        "02  learner        warning: b",
        "04  rollout-0      d",
    ]
    reading = Reading(runs / "r" / "logs" / "learner.log", 0)
    assert [text for _, _, text in reading.new()] == ["warning: b", "debug: c"]
    with (runs / "r" / "logs" / "learner.log").open("a") as file:
        file.write(line("05", "e")[-3:])
    assert [text for _, _, text in reading.new()] == ["e"] and not list(reading.new())


def test_a_service_or_a_kind_and_a_level_are_chosen(runs: pathlib.Path) -> None:
    assert said(runs, "--service", "rollout", "--level", "warning") == []
    assert said(runs, "--service", "learner", "--level", "debug") == [
        "02  learner        warning: b",
        "03  learner        debug: c",
    ]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--level", "loud"], "--level: 'loud' is not one of debug"),
        (["--service", "x"], "--service: x wrote nothing; logs there: learner, rollout-0"),
    ],
)
def test_what_is_not_there_is_said(runs: pathlib.Path, words: list[str], why: str) -> None:
    done = CliRunner().invoke(app, ["logs", "r", "--runs", str(runs), *words])
    assert done.exit_code == 2 and why in " ".join(done.output.split())
