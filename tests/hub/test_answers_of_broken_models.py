"""A model whose logits are no numbers has no answer: not a letter, not a number, not a text."""

import pytest
import torch

from command_line import answer, run
from tiny_checkpoints import FROZEN, copy_frozen
from vega3d.demo.compare import Comparer
from vega3d.evaluation.answerers import BlindAnswerer, ModelAnswerer
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.hub.load import load_processor, load_vega
from vega3d.inference.answer import check_logits, letter_probabilities
from vega3d.inference.session import Session
from vega3d.questions import SpatialQuestion
from vega3d.shipped import example_clip

MESSAGE = "logits are NaN or infinite"
QUESTIONS = {
    "choice": SpatialQuestion(example_clip("room"), "Which is larger?", ("the bed", "the shelf")),
    "number": SpatialQuestion(example_clip("room"), "How many chairs are there?", is_numeric=True),
    "text": SpatialQuestion(example_clip("room"), "Where is the bed?"),
}


@pytest.fixture(scope="module", params=["nan", "inf"])
def broken(request):
    """The stored checkpoint with such a value in its fusion, which every visual token passes."""
    model, processor = load_vega(FROZEN, device="cpu")
    with torch.no_grad():
        model.model.fusion.residual_scale.fill_(float(request.param))
    return model, processor


@pytest.mark.parametrize("kind", QUESTIONS)
def test_a_broken_model_has_no_answer(broken, kind):
    with pytest.raises(ValueError, match=MESSAGE):
        Session(*broken, num_frames=2).answer(QUESTIONS[kind])


@pytest.mark.parametrize("kind", QUESTIONS)
def test_the_demo_has_none_either(broken, kind):
    with pytest.raises(ValueError, match=MESSAGE):
        list(Comparer(Session(*broken, num_frames=2)).compare(QUESTIONS[kind], max_new_tokens=4))


@pytest.mark.parametrize("question_type", ["object_counting", "route_planning"])
def test_the_evaluator_has_none_either(broken, question_type):
    options = ("left", "right") if question_type == "route_planning" else ()
    place = {"id": "1", "dataset": "rooms", "scene": "room"}
    record = AnnotatedQuestion(example_clip("room"), "Which?", options, question_type=question_type, **place)

    with pytest.raises(ValueError, match=MESSAGE):
        ModelAnswerer(*broken, "broken", num_frames=2).answer([record])
    [(text, _)] = BlindAnswerer(*broken, "blind").answer([record])  # the words alone pass no fusion
    assert isinstance(text, str)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["a letter", "another token", "all"])
def test_probabilities_are_numbers_or_refused(value, place):
    tokenizer = load_processor(FROZEN).tokenizer
    [token] = tokenizer.encode("A", add_special_tokens=False)
    logits = torch.arange(float(len(tokenizer))) / 100
    logits[{"a letter": token, "another token": token - 1, "all": slice(None)}[place]] = value

    if value < 0 and place != "all":  # a token that is forbidden
        assert sum(letter_probabilities(logits, "AC", tokenizer).values()) == pytest.approx(1)
    else:
        with pytest.raises(ValueError, match=MESSAGE):
            letter_probabilities(logits, "AC", tokenizer)


def test_one_row_of_a_batch_is_enough():
    logits = torch.zeros(3, 5)
    check_logits(logits)
    logits[1, 2] = float("nan")

    with pytest.raises(ValueError, match=MESSAGE):
        check_logits(logits)


@pytest.mark.parametrize("options", [["--options", "a", "b"], ["--number"], []])
def test_the_command_tells_it_in_one_line(tmp_path, options):
    folder = copy_frozen(tmp_path / "model")
    model, _ = load_vega(folder, device="cpu")
    with torch.no_grad():
        model.model.vlm.model.language_model.norm.weight.fill_(float("nan"))
    model.save_pretrained(folder)

    done = run("ask", "room", "Which?", *options, "--json", "--model", folder, "--num-frames", "2")

    assert done.exit_code == 2 and MESSAGE in done.output and len(done.output.strip().splitlines()) == 1


def test_json_tells_the_time_of_loading_by_itself():
    values = answer("room", "Which is larger?", "--options", "bed", "shelf", "--num-frames", "2")

    assert values["loading_seconds"] > 0 and values["seconds"] > 0
    assert sum(values["options"].values()) == pytest.approx(1)
