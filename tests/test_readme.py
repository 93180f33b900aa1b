"""Each snippet of the README, and then of docs/asking.md, runs as it stands, in the order in which it is read."""

import json
import re
import shlex
from pathlib import Path

import pytest

from command_line import run
from vega3d import VegaConfig
from vega3d.questions import KnownQuestions, SpatialQuestion
from vega3d.shipped import ASSETS

NEED_THE_HUB = ("vega3d assemble",)
ROWS = json.loads((ASSETS / "clips" / "questions.json").read_text())
PROJECT = Path(__file__).parents[1]
ADVERTISED = [
    "README.md",
    "Makefile",
    "docs/*.md",
    "examples/*.py",
    "src/vega3d/demo/*.py",
    "src/vega3d_cli/*.py",
    "src/vega3d/hub/*.py",
]
PAGES = ("README.md", "docs/asking.md")


def blocks(language: str) -> list[str]:
    text = "\n".join((PROJECT / page).read_text() for page in PAGES)
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def test_python(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    asked, through_transformers, *snippets = blocks("python")
    assert len(snippets) >= 5
    names: dict = {}

    exec(compile(asked, "README.md", "exec"), names)
    right = {row["question"]: row["answer"] for row in ROWS}[names["question"]]
    assert capsys.readouterr().out == "C. nightstand\n"
    assert right == "C"

    exec(compile(through_transformers, "README.md", "exec"), names)
    assert capsys.readouterr().out == "2\n"
    assert names["question"].question in {row["question"] for row in ROWS if row["answer"] == "2"}

    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), names)
    assert len(names["answer"][0]) > names["inputs"]["input_ids"].shape[1]
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
        assert "means nothing" not in result.stderr + result.stdout, command
    assert (workplace / "gates.png").is_file()


def advertised() -> list[tuple[str, list[str]]]:
    """Where a command that asks is advertised, and its words; those for other models with words of their own apart."""
    found = []
    for file in (file for pattern in ADVERTISED for file in sorted(PROJECT.glob(pattern))):
        for command in re.findall(r"(?:^|[\s`/])vega3d (ask [^`\n]*)", file.read_text()):
            if '"' in command and "..." not in command and "org/" not in command:
                found.append((file.name, shlex.split(command.split(' """')[0].removesuffix('""",'), comments=True)))
    return found


def test_no_advertised_question_is_outside_what_the_embedded_model_knows():
    """The answers to those in the README and of the help are looked at above, and in test_answers_of_the_help."""
    known = KnownQuestions.from_config(VegaConfig.from_pretrained(ASSETS / "vega3d-tiny").questions)
    commands = advertised()
    assert {name for name, _ in commands} >= {"README.md", "Makefile", "features.md", "training.md", "ask.py"}

    for name, words in commands:
        arguments = words[1 : next((n for n, word in enumerate(words) if word.startswith("--")), len(words))]
        rest = words[1 + len(arguments) :]
        options = rest[rest.index("--options") + 1 :] if "--options" in rest else []
        options = options[: next((n for n, word in enumerate(options) if word.startswith("--")), len(options))]
        asked = SpatialQuestion(None, arguments[-1], options, is_numeric="--number" in rest)
        assert known.note(asked) is None, f"{name}: {words}"


def test_answers_of_the_help():
    """An answer is a number, a place or one of the options; those that are known are right."""
    answers = {}
    for name, words in advertised():
        if name == "ask.py" and "--model" not in words and words[1] in ("room", "study"):
            result = run(*words)
            assert result.exit_code == 0, result.stderr
            answers[words[2]] = result.stdout.strip().splitlines()[0]

    assert len(answers) == 3
    for question, text in answers.items():
        assert re.fullmatch(r"\d+(\.\d+)?|\d\.\d (ahead|behind) \d\.\d (left|right)|[A-D]\. .+", text), (
            question,
            text,
        )
    assert answers["How many desk(s) are in this room?"] == "2"
    assert answers["Where is the teddy bear, from the first frame?"] == "0.5 behind 2.0 right"
