"""METEOR: by the Java program of pycocoevalcap where both are there, and said to be missing where not."""

import sys

import pytest

from vega3d.evaluation.scenes.records import TextRecord
from vega3d.evaluation.scenes.scoring import corpus_values
from vega3d.evaluation.scenes.texts import meteor, meteor_missing, on_one_line

needs_meteor = pytest.mark.skipif(meteor_missing() is not None, reason=f"METEOR: {meteor_missing()}")
RECORDS = [
    TextRecord(id=str(n), scene=f"s{n}", kind="what", prompt="?", answers=("a brown chair", "the chair"))
    for n in range(2)
]


@pytest.fixture
def java(tmp_path, monkeypatch):
    """A `java` that ends at once, and nothing else on the PATH."""
    program = tmp_path / "java"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return program


def test_what_is_missing_is_said_with_its_remedy(java, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    assert "pip install 'vega3d[meteor]'" in meteor_missing()
    with pytest.raises(ImportError, match=r"vega3d\[meteor\]"):
        meteor(["a chair"], [["a chair"]])
    java.unlink()
    values = corpus_values("scanqa", RECORDS, ["a chair", "a table"])
    assert values == {"meteor": {"score": None, "missing": meteor_missing()}}
    assert "no java here. Install a Java runtime" in meteor_missing()
    assert corpus_values("scanrefer", [], []) == {}


def test_texts_are_lines():
    assert on_one_line(" a chair\nby the door ||| or\r\na table ") == "a chair by the door or a table"


@needs_meteor
@pytest.mark.stress
def test_scores_of_the_java_program():
    """The program is started twice, which takes some 25 s of CPU each."""
    values = corpus_values("scanqa", RECORDS[:1], [" a brown\n||| chair"])
    assert values["meteor"] == {"score": pytest.approx(1), "missing": None}
    assert meteor(["a brown seat at the door"], [["a brown chair by the door"]]) == pytest.approx(0.31845, abs=1e-4)


@needs_meteor
def test_a_program_that_ends_early_costs_no_answers(java):
    values = corpus_values("scanqa", RECORDS, ["the chair", "a brown chair"])
    assert values["meteor"]["score"] is None and "java ended early" in values["meteor"]["missing"]
