"""The recipe that scores a checkpoint, on the stored model and the two shipped clips as two rooms."""

import json
import runpy
from pathlib import Path

import pytest

from vega3d.demo.examples import CLIPS, Scores, check_scores
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.inference.session import Session
from vega3d.questions import KnownQuestions


@pytest.fixture(scope="module")
def recipe() -> dict:
    return runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "make_scores.py"))


@pytest.fixture(scope="module")
def records() -> list[AnnotatedQuestion]:
    """Each question about the clips twice, under two ids."""
    rows = json.loads((CLIPS / "questions.json").read_text())
    return [
        AnnotatedQuestion(
            str(CLIPS / f"{row['clip']}.mp4"),
            row["question"],
            row["options"],
            answer=row["answer"],
            frame=row["frame"],
            marks=row["marks"],
            id=f"{place}-{number}",
            question_type=row["question_type"],
            dataset="rooms",
            scene=row["clip"],
        )
        for number, row in enumerate(rows)
        for place in range(2)
    ]


def test_a_checkpoint_is_scored_with_its_simulator_and_without(recipe, records, tiny):
    model, processor = tiny
    known = KnownQuestions.from_config(model.config.questions)
    chosen = recipe["first_of_each_type"](records, known)
    assert {record.id[:2] for record in chosen} == {"0-"}
    assert len(chosen) == 2 * len({record.question_type for record in chosen}) == 20  # all types but the boxes

    values = recipe["measured"](model, processor, chosen[:8], 4)
    scores = Scores(**values)
    examples = recipe["answered_examples"](Session(model, processor, num_frames=4), known, scores)

    check_scores(Scores(**values, examples=examples))
    assert (scores.rooms, scores.questions, scores.columns) == (1, 8, ["model", "off", "constant"])
    assert {row["clip"] for row in examples} == {"room", "study"}
    macro = scores.scores["macro"]
    assert scores.difference["score"] == pytest.approx(macro["model"] - macro["off"], abs=2e-4)


def test_the_tables_have_one_place_in_a_card(recipe):
    place = recipe["with_section"]
    once = place("# m\n\ntext\n\n## Data\n\nrooms\n", "a table\n")

    assert once == f"# m\n\ntext\n\n{recipe['SECTION']}\na table\n\n## Data\n\nrooms\n"
    assert place(once, "another\n") == once.replace("a table", "another")
    assert place("# m\n", "a table\n").endswith(f"{recipe['SECTION']}\na table\n")
