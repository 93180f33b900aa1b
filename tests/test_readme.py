"""Each snippet of the README, and then of docs/asking.md, runs as it stands, in the order in which it is read."""

import json
import re
import shlex
from pathlib import Path

import pytest

import vega3d
from command_line import run
from vega3d.questions import KnownQuestions, SpatialQuestion
from vega3d.shipped import ASSETS

NEED_THE_HUB = re.compile(r"vega3d assemble| (org|Qwen)/")
ROWS = json.loads((ASSETS / "clips" / "questions.json").read_text())
PROJECT = Path(__file__).parents[1]
ADVERTISED = [
    "README.md",
    "Makefile",
    "docs/*.md",
    "examples/*.py",
    "src/vega3d/**/*.py",
    "src/vega3d_cli/*.py",
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

    for snippet in (asked, through_transformers):
        [(text, verdict)] = re.findall(r"^print\(.*\)  # (.+), which is (right|wrong)$", snippet, flags=re.MULTILINE)
        exec(compile(snippet, "README.md", "exec"), names)
        question = names["question"]
        row = {row["question"]: row for row in ROWS}[question if isinstance(question, str) else question.question]
        assert capsys.readouterr().out == f"{text}\n"
        assert (text.split(". ")[0] == row["answer"]) == (verdict == "right")

    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), names)
    assert len(names["answer"][0]) > names["inputs"]["input_ids"].shape[1]
    assert (workplace / "my-vega3d" / "generator" / "vae").is_dir()
    assert names["gate"].ndim == 3


def test_commands(workplace, monkeypatch):
    """After the Python snippets, which save `my-vega3d`; what needs the Hub is not run."""
    monkeypatch.chdir(workplace)
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("vega3d ") and not NEED_THE_HUB.search(line)]
    assert len(commands) >= 8
    for command in commands:
        result = run(*shlex.split(command, comments=True)[1:])
        assert result.exit_code == 0, f"{command}\n{result.stderr}"
        assert "means nothing" not in result.stderr + result.stdout, command
    assert (workplace / "gates.png").is_file()


def advertised() -> list[tuple[str, list[str]]]:
    """Where a command that asks is advertised, and its words; those for other models with words of their own apart."""
    found = []
    for file in advertising():
        for command in re.findall(r"(?:^|[\s`/\"])vega3d (ask [^`\n]*)", file.read_text()):
            if re.search("[\"']", command) and "..." not in command and "org/" not in command:
                command = command.split(' """')[0].removesuffix('""",')
                odd = command.count('"') % 2  # the end of a text of Python
                found.append((file.name, shlex.split(command.rpartition('"')[0] if odd else command, comments=True)))
    return found


def advertising() -> list[Path]:
    return [file for pattern in ADVERTISED for file in sorted(PROJECT.glob(pattern))]


def asked_by(words: list[str]) -> SpatialQuestion:
    """The question of a command, about the last video before it."""
    arguments = words[1 : next((n for n, word in enumerate(words) if word.startswith("--")), len(words))]
    rest = words[1 + len(arguments) :]
    options = rest[rest.index("--options") + 1 :] if "--options" in rest else []
    options = options[: next((n for n, word in enumerate(options) if word.startswith("--")), len(options))]
    return SpatialQuestion(arguments[-2], arguments[-1], options, is_numeric="--number" in rest)


def asked_in_python() -> list[tuple[str, SpatialQuestion]]:
    """Where `ask` is shown with a shipped clip and a text, and the question."""
    found = []
    for file in advertising():
        for clip, question, rest in re.findall(r'\.ask\("(room|study)", "([^".]+)"([^\n]*)', file.read_text()):
            options = re.findall(r'"([^"]+)"', rest)
            found.append((file.name, SpatialQuestion(clip, question, options, is_numeric="is_numeric=True" in rest)))
    return found


@pytest.fixture(scope="module")
def session():
    return vega3d.load(device="cpu")


def test_no_advertised_question_is_outside_what_the_embedded_model_knows(session):
    known = KnownQuestions.from_config(session.model.config.questions)
    questions = [(name, asked_by(words)) for name, words in advertised()] + asked_in_python()
    files = {name for name, _ in questions}
    assert files >= {"README.md", "Makefile", "features.md", "training.md", "ask.py", "asking.md", "session.py"}

    for name, asked in questions:
        assert known.note(asked) is None, f"{name}: {asked}"


def test_every_advertised_question_about_a_shipped_clip_has_an_answer_of_its_kind(session):
    """A number, a place or one of the options, whatever model is shipped; whether they are right, the card says."""
    questions = [asked_by(words) for _, words in advertised()] + [asked for _, asked in asked_in_python()]
    about_clips = [asked for asked in questions if asked.visual in ("room", "study")]
    different = {(asked.visual, asked.question, tuple(asked.options)): asked for asked in about_clips}
    assert len(different) >= 6

    for asked in different.values():
        answer = session.answer(asked)
        if asked.options:
            assert answer.text[3:] in asked.options
        else:
            shape = r"\d+(\.\d+)?" if asked.is_numeric else r"\d\.\d (m )?(ahead|behind|to the).*"
            assert re.fullmatch(shape, answer.text), (asked, answer.text)
