"""Each snippet of the README runs as it stands, in the order in which it is read."""

import re
import shlex
from pathlib import Path

import pytest

from test_cli import run

NEED_THE_HUB = ("vega3d assemble",)
README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def test_python(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    snippets = blocks("python")
    assert len(snippets) >= 6
    names: dict = {}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), names)
    assert len(names["answer"][0]) > names["inputs"]["input_ids"].shape[1]
    assert capsys.readouterr().out.strip()
    assert (workplace / "my-vega3d" / "generator" / "vae").is_dir()
    assert names["gate"].ndim == 3


def test_commands(workplace, monkeypatch):
    """After the Python snippets, which save `my-vega3d`; what needs the Hub is not run."""
    monkeypatch.chdir(workplace)
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("vega3d ") and not line.startswith(NEED_THE_HUB)]
    assert len(commands) >= 8
    for command in commands:
        result = run(*shlex.split(command, comments=True)[1:])
        assert result.exit_code == 0, f"{command}\n{result.stderr}"
    assert (workplace / "gates.png").is_file()
