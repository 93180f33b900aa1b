"""Marked boxes that are told in words to a model with `boxes_in_words`, and drawn for others."""

from dataclasses import replace

import numpy as np
import pytest

from tiny_checkpoints import FROZEN
from vega3d.evaluation.answerers import BlindAnswerer, ModelAnswerer
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.hub.load import load_vega
from vega3d.inference.session import Session
from vega3d.processing.video_vega3d import read_video
from vega3d.questions import KnownQuestions, SpatialQuestion
from vega3d.rooms.questions.marks import in_words
from vega3d.shipped import example_clip

NUM_FRAMES, FRAME = 4, 9  # sampled frames, and that of the boxes, which sampling leaves out
MARKS = ((0, 0, 32, 24), (352, 264, 384, 288))
BOXES = ("box A", "box B")
QUESTION = SpatialQuestion("room", "Which of the two marked boxes is it?", BOXES, frame=FRAME, marks=MARKS)
TOLD = ("frame 1, row 0, column 0", "frame 1, row 11, column 11")
PLACE = "frame {#}, row {#}, column {#}"
FORMS = {
    "names": ["bed"],
    "forms": [
        {"text": QUESTION.question, "answer": "choice", "options": list(BOXES), "marked": True},
        {
            "text": "Which of the two boxes is it?",
            "answer": "choice",
            "options": [PLACE],
            "wordings": ["Which?"],
        },
    ],
}


@pytest.fixture(scope="module")
def session() -> Session:
    model, processor = load_vega(FROZEN, device="cpu")
    model.config.boxes_in_words = True
    return Session(model, processor, num_frames=NUM_FRAMES)


def test_a_box_is_told_by_its_frame_row_and_column():
    told = in_words(QUESTION, 1, 384, 288)

    assert (told.question, told.options) == ("Which of the two boxes is it?", TOLD)
    assert (told.frame, told.marks, told.visual) == (None, (), "room")
    assert in_words(replace(QUESTION, marks=((160, 144, 224, 146), *MARKS[1:])), 0, 384, 288).options[0] == (
        "frame 0, row 6, column 6"
    )
    with pytest.raises(ValueError, match=r"options box A, box B, but the options are \['bed', 'lamp'\]"):
        in_words(replace(QUESTION, options=("bed", "lamp")), 1, 384, 288)
    with pytest.raises(ValueError, match="not inside the frame"):
        in_words(QUESTION, 1, 380, 288)


def test_nothing_is_drawn_and_the_frame_is_among_those_seen(session):
    whole = read_video(example_clip("room"), num_frames=10_000)

    told = session.posed(QUESTION)

    assert told.options == TOLD
    assert (told.visual.frames[1] == whole.frames[FRAME]).all() and len(told.visual) == NUM_FRAMES
    assert (np.diff(told.visual.seconds) > 0).all()
    assert session.posed(told) is told
    with pytest.raises(ValueError, match="Frame 99 is marked, but"):
        session.answer(replace(QUESTION, frame=99))


def test_an_answer_is_that_of_the_question_in_words(session):
    told = session.posed(QUESTION)

    answer = session.answer(QUESTION)
    [(_, letters)] = session.answer_batch([QUESTION])

    expected = session.answer(told)
    assert answer.options == expected.options and letters == pytest.approx(answer.options, abs=1e-5)
    assert answer.text in ("A. box A", "B. box B") and expected.text[:2] == answer.text[:2]
    assert session.is_encoded(QUESTION) and session.encode(QUESTION) is session.encode(told)


def test_boxes_of_other_models_are_drawn(session):
    other = Session(session.model, session.processor, num_frames=NUM_FRAMES)
    told = session.answer(QUESTION)
    session.model.config.boxes_in_words = False
    try:
        assert other.posed(QUESTION) is QUESTION
        assert other.answer(QUESTION).options != told.options
        assert "boxes_in_words" not in ModelAnswerer(session.model, session.processor, "drawn").settings
    finally:
        session.model.config.boxes_in_words = True


def test_the_evaluation_tells_them_too_and_says_so(session):
    record = AnnotatedQuestion(
        QUESTION.visual,
        QUESTION.question,
        QUESTION.options,
        frame=FRAME,
        marks=MARKS,
        id="a",
        question_type="localisation_by_choice",
        dataset="rooms",
        scene="s",
    )
    answerer = ModelAnswerer(session.model, session.processor, "words", NUM_FRAMES)
    blind = BlindAnswerer(session.model, session.processor, "words", NUM_FRAMES)

    [(text, letters)] = answerer.answer([record])

    assert (text, letters) == answerer.session.answer_batch([QUESTION])[0]
    assert answerer.settings["boxes_in_words"] is True
    assert blind.question(record).options == TOLD and blind.question(record).visual is None


def test_a_question_about_marks_is_known_with_them_alone():
    known = KnownQuestions.from_config(FORMS)

    assert known.note(QUESTION) is None
    assert known.note(replace(QUESTION, frame=None, marks=())) is not None
    assert known.note(in_words(QUESTION, 1, 384, 288)) is None
