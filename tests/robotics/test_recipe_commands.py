"""The commands of the recipes: help, and what they refuse in one line."""

import importlib.util
import json

import pytest

from recipes import libero
from recipes.metaworld import commands, study_commands  # noqa: F401 (the second adds its commands)
from robotics.test_results import result_of
from vega3d_cli import run

COMMANDS = ["demonstrations", "small-model", "export", "evaluate", "compare", "study", "models", "features", "rate"]
NONE = importlib.util.find_spec("metaworld") is None


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_to_copy(command, capsys):
    assert run([command, "--help"], commands.app, commands.NAME) == 0
    assert f"    {commands.NAME} {command} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare", "--first", "no.json", "--second", "no.json"], "no.json"),
        (["evaluate", "expert", "--output", "x.json", "--episodes", "0"], "--episodes"),
        (
            ["evaluate", "expert", "--output", "x.json", "--tasks", "push-v2"],
            "metaworld" if NONE else "'push-v2' is no",
        ),
        (["evaluate", "model", "--output", "x.json", "--seed", "3"], "metaworld" if NONE else "--seed is 3, but"),
        (["demonstrations", "x", "--size", "99"], "metaworld" if NONE else "--size is 99, but must be an even number"),
        (["demonstrations", "x", "--tasks", "push-v3", "push-v3"], "metaworld" if NONE else "name each once"),
        (["demonstrations", "x", "--views", "top"], "metaworld" if NONE else "--views names ['top'], but must"),
    ],
)
def test_bad_input_ends_in_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert run(arguments, commands.app, commands.NAME) == 2

    assert said in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_two_files_are_compared(tmp_path, capsys):
    for name, outcomes in (("a", [True, False, False]), ("b", [True, True, False])):
        (tmp_path / f"{name}.json").write_text(json.dumps(result_of({"push-v3": outcomes}, policy=name)))
    files = ["--first", str(tmp_path / "a.json"), "--second", str(tmp_path / "b.json")]

    assert run(["compare", *files], commands.app, commands.NAME) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["push-v3", "0.33", "0.67", "+0.33"]


@pytest.mark.skipif(importlib.util.find_spec("libero") is not None, reason="LIBERO is installed")
def test_libero_says_what_is_missing(tmp_path, capsys):
    arguments = ["evaluate", "nothing", "--suite", "libero_10", "--output", str(tmp_path / "x.json")]

    assert run(arguments, libero.app, libero.NAME) == 2
    assert "The package libero is not installed" in capsys.readouterr().err
