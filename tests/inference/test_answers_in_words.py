"""Models that say what a choice or a number stands on before the answer itself."""

import json

import pytest
import torch

from command_line import run
from tiny_checkpoints import FROZEN, copy_frozen
from vega3d.evaluation.answerers import ModelAnswerer
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.hub.load import load_vega
from vega3d.inference.session import Session
from vega3d.processing.video_vega3d import clip_from_frames
from vega3d.questions import SpatialQuestion, reason_and_answer
from vega3d.training.collator import VegaCollator

CLIP = clip_from_frames(torch.randint(0, 255, (4, 64, 64, 3), dtype=torch.uint8, generator=torch.manual_seed(0)))
CHOICE = SpatialQuestion(CLIP, "Which is closer?", ("bed", "lamp"), answer="bed 2.0 left, lamp 1.2 right: lamp. B")
NUMBER = SpatialQuestion(CLIP, "How far is the bed?", is_numeric=True, answer="bed 2.0 left. 2.4")
TEXT = SpatialQuestion(CLIP, "Describe the room.", answer="I see a bed. It has a lamp.")


@pytest.fixture(scope="module")
def session() -> Session:
    """Of the stored checkpoint, taught three answers by heart."""
    model, processor = load_vega(FROZEN, device="cpu")
    model.float()
    model.config.answers_in_words = True
    language = [value for name, value in model.named_parameters() if "language_model" in name or "lm_head" in name]
    optimizer = torch.optim.AdamW(language, lr=1e-2)
    batch = VegaCollator(processor, 4)([CHOICE, NUMBER, TEXT])
    for _ in range(60):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    return Session(model.eval(), processor, num_frames=4)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("bed 2.0 left: left. B", ("bed 2.0 left: left", "B")),
        (" bed 2.0 left. 2.4 ", ("bed 2.0 left", "2.4")),
        ("2.4", ("", "2.4")),
        ("B", ("", "B")),
        ("", ("", "")),
    ],
)
def test_the_answer_follows_the_last_full_stop(text, parts):
    assert reason_and_answer(text) == parts


def test_a_choice_has_its_reason_and_the_letters_where_they_are_said(session):
    answer = session.answer(CHOICE)
    assert (answer.text, answer.reason) == ("B. lamp", "bed 2.0 left, lamp 1.2 right: lamp")
    assert answer.options is not None and answer.options["B"] > 0.9
    assert answer.to_dict()["reason"] == answer.reason


def test_a_number_has_its_reason_whatever_limit_open_answers_have(session):
    answer = session.answer(NUMBER, max_new_tokens=2)
    assert (answer.text, answer.reason, answer.options) == ("2.4", "bed 2.0 left", None)
    *growing, last = session.stream(NUMBER)
    assert last.text == "2.4" and last.reason == "bed 2.0 left" and growing[-1].text.strip().endswith("2.4")


def test_free_text_stays_whole(session):
    answer = session.answer(TEXT)
    assert (answer.text, answer.reason) == (TEXT.answer, None)


def test_the_official_parser_gets_the_answer_alone(session):
    where = {"dataset": "rooms", "scene": "s"}
    records = [
        AnnotatedQuestion(CLIP, CHOICE.question, CHOICE.options, id="a", question_type="object_rel_distance", **where),
        AnnotatedQuestion(CLIP, NUMBER.question, id="b", question_type="object_abs_distance", **where),
    ]
    answerer = ModelAnswerer(session.model, session.processor, "words", 4)
    (choice, letters), (number, none) = answerer.answer(records)
    assert (choice, number, none) == ("B", "2.4", None) and letters["B"] > 0.9
    assert answerer.settings["generation"]["max_new_tokens"] == 128


def test_without_the_setting_the_text_is_as_it_was_written(session):
    session.model.config.answers_in_words = False
    try:
        ((text, letters),) = session.answer_batch([CHOICE], 64)
        assert text == CHOICE.answer and letters.keys() == {"A", "B"}
        assert session.answer(NUMBER).reason is None
    finally:
        session.model.config.answers_in_words = True


def test_the_command_writes_the_number_alone_to_standard_output(tmp_path):
    folder = copy_frozen(tmp_path / "model", answers_in_words=True)
    asked = ("ask", "room", "How far?", "--number", "--model", str(folder), "--num-frames", "4")

    result, values = run(*asked), json.loads(run(*asked, "--json").stdout)

    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{values['text']}\n"
    assert not values["reason"] or f"({values['reason']})" in result.stderr
