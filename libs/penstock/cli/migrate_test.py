"""The command prints a recipe on stdout and what it could not carry on stderr."""

import pathlib

import pytest
import typer
import yaml

from penstock.cli.commands.migrate import migrate


def test_the_recipe_is_printed_and_what_was_left_is_said(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "grpo.yaml"
    config.write_text("trainer: grpo\nnum_generations: 4\nmax_steps: 3\nepsilon: 0.1\nodd: 1\n")
    migrate("trl", config)
    out, said = capsys.readouterr()
    assert yaml.safe_load(out)["algorithm"]["loss"]["clip_high"] == 0.1
    lines = said.splitlines()
    assert "odd: unknown key; not carried over" in lines and all(": " in line for line in lines)


def test_bad_input_is_one_sentence(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_text("learning_rate: 1.0\n")
    for framework, file, words in (
        ("axolotl", "x", "'axolotl' is not one of nemo-rl, trl, verl"),
        ("trl", "x", "does not say which trainer"),
        ("trl", "absent", "cannot be read"),
    ):
        with pytest.raises(typer.Exit) as ended:
            migrate(framework, tmp_path / file)
        out, said = capsys.readouterr()
        assert ended.value.exit_code == 2 and not out and words in " ".join(said.split())
