"""`vega3d` as a user meets it, without a process of its own: the exit code, and what is said."""

import contextlib
import io
import json
from pathlib import Path
from typing import NamedTuple

import vega3d_cli
from tiny_checkpoints import FROZEN


class Done(NamedTuple):
    """How a command ended, and what it said."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def run(*arguments: str | Path) -> Done:
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = vega3d_cli.run([str(argument) for argument in arguments])
    return Done(code, stdout.getvalue(), stderr.getvalue())


def answer(*arguments: str | Path, model: str | Path = FROZEN) -> dict:
    """What `vega3d ask ... --json` prints."""
    result = run("ask", *arguments, "--json", "--device", "cpu", "--model", model)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)
