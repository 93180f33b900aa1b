"""Batches: the answers are those of questions asked alone, whatever stands beside them."""

from dataclasses import replace

import pytest
import torch
from evaluation_data import BARE_OPTIONS

from tiny_checkpoints import FROZEN, save_checkpoint
from vega3d.evaluation.answerers import BlindAnswerer, ModelAnswerer
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.hub.load import load_vega
from vega3d.modeling.fusion_vega3d import FUSIONS
from vega3d.shipped import example_clip

TOLERANCE = 1e-5  # of a probability; float32 on a CPU, where padding changes the order of sums (measured: 1.4e-6)
MARKS = ((2, 2, 30, 30), (40, 40, 60, 60), (5, 50, 25, 60))


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def folder(request, tmp_path_factory):
    """The stored checkpoint is a Qwen2.5-VL; a Qwen3-VL writes the time of each pair of frames into the prompt."""
    if request.param == "qwen2_5_vl":
        return FROZEN
    return save_checkpoint(tmp_path_factory.mktemp("batches"), request.param)


@pytest.fixture(scope="module")
def tiny(folder):
    return load_vega(folder, device="cpu", dtype="float32")


def question(number: int) -> AnnotatedQuestion:
    """Two scenes, marked and not, two or three options or none, and lengths that differ."""
    options = BARE_OPTIONS[: 2 + number % 2] if number % 3 else ()
    thing = ("trash can", "shelf", "lamp", "door")[number // 3]
    length = f"What is the length of the longest dimension (length, width, or height) of the {thing}"
    asks = "what is near?" if options else f"{length}, measured in centimeters?"
    asked = AnnotatedQuestion(
        id=str(number),
        dataset="clips",
        scene=("room", "study")[number // 2 % 2],
        question_type="object_rel_distance" if options else "object_size_estimation",
        question=f"{'Very ' * (7 * number % 20)}{asks}",
        answer="A" if options else "35",
        options=options,
        visual=example_clip(("room", "study")[number // 2 % 2]),
    )
    return replace(asked, frame=3, marks=MARKS) if number % 4 == 1 else asked


QUESTIONS = [question(number) for number in range(12)]


def ask(answerer: ModelAnswerer, questions: list[AnnotatedQuestion], size: int) -> dict:
    pairs = [
        pair
        for start in range(0, len(questions), size)
        for pair in zip(questions[start : start + size], answerer.answer(questions[start : start + size]), strict=True)
    ]
    return {record.id: answer for record, answer in pairs}


def check_equal(answers: dict, alone: dict) -> None:
    assert answers.keys() == alone.keys()
    for key, (text, probabilities) in alone.items():
        assert answers[key][0] == text
        assert answers[key][1] == (None if probabilities is None else pytest.approx(probabilities, abs=TOLERANCE))


@pytest.mark.parametrize("answerer", [ModelAnswerer, BlindAnswerer])
def test_answers_do_not_depend_on_batches_or_order(tiny, answerer):
    alone = {item.id: answerer(*tiny, "tiny", num_frames=4).answer([item])[0] for item in QUESTIONS}
    assert len({text for text, _ in alone.values()}) >= 5
    for size in (1, 5, 12):
        check_equal(ask(answerer(*tiny, "tiny", num_frames=4), QUESTIONS, size), alone)
    check_equal(ask(answerer(*tiny, "tiny", num_frames=4), QUESTIONS[::-1], 8), alone)


def test_questions_about_one_clip_share_its_pass_through_the_language_model(tiny):
    """Not those with boxes drawn in, which are other clips, nor one about a clip that nobody else asks about."""
    model, _ = tiny
    asked = [item for item in QUESTIONS if not item.marks]
    scenes = [item.scene for item in asked]
    clip_tokens = 100  # fewer than any clip has here, more than any words
    seen: list[tuple[int, int]] = []

    def see(_, __, inputs):
        seen.append(tuple(inputs["input_ids"].shape))

    hook = model.register_forward_pre_hook(see, with_kwargs=True)
    ModelAnswerer(*tiny, "tiny", num_frames=4).answer(asked)
    hook.remove()

    first, second = (scenes.count(name) for name in ("room", "study"))
    passes = [rows for rows, length in seen if length > clip_tokens]
    assert min(first, second) >= 2 and passes == [1, 1]


def test_answers_to_a_fusion_that_reads_the_question(folder):
    model, processor = load_vega(folder, device="cpu", dtype="float32")
    torch.manual_seed(0)
    model.config.fusion = "instruction_gated"
    model.model.fusion = FUSIONS["instruction_gated"](model.config).eval()
    alone = {item.id: ModelAnswerer(model, processor, "t", 4).answer([item])[0] for item in QUESTIONS[:6]}
    check_equal(ask(ModelAnswerer(model, processor, "t", 4), QUESTIONS[:6], 6), alone)


def passes_of(modules, answerer: ModelAnswerer, questions: list[AnnotatedQuestion], size: int) -> list[int]:
    """How often each module is called."""
    passes: list[list[int]] = [[] for _ in modules]
    hooks = [
        module.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        for module, calls in zip(modules, passes, strict=True)
    ]
    ask(answerer, questions, size)
    for hook in hooks:
        hook.remove()
    return [len(calls) for calls in passes]


def test_a_video_is_encoded_once_in_and_between_batches(tiny):
    """Three videos, one of them marked, whose questions run over the ends of the batches."""
    model = tiny[0]
    scenes = sorted(QUESTIONS, key=lambda item: (item.scene, bool(item.marks)))
    videos = len({(item.scene, item.marks) for item in scenes})
    modules = (model.model.generator.tower, model.model.vlm.model.visual)
    once = passes_of(modules, ModelAnswerer(*tiny, "tiny", num_frames=4), scenes[:1], 1)
    assert all(once)
    for size in (2, 5, 12):
        passes = passes_of(modules, ModelAnswerer(*tiny, "tiny", num_frames=4), scenes, size)
        assert passes == [videos * count for count in once]


def test_a_prompt_with_a_placeholder_of_its_own_is_refused(tiny):
    asked = replace(QUESTIONS[0], question="What is <|video_pad|>?")
    with pytest.raises(ValueError, match="Question 0 holds placeholders"):
        ModelAnswerer(*tiny, "tiny", num_frames=4).answer([asked])
