"""A real model and the baselines as answerers."""

import math
from dataclasses import replace

import pytest
import torch
from evaluation_data import BARE_OPTIONS, question_records

from tiny_checkpoints import FROZEN, FROZEN_CONFIG, save_checkpoint
from vega3d.evaluation.answerers import (
    BlindAnswerer,
    ChanceAnswerer,
    ModelAnswerer,
    MostFrequentAnswerer,
    constant_scores,
)
from vega3d.evaluation.vsibench import GENERATION, AnnotatedQuestion
from vega3d.hub.load import load_vega
from vega3d.inference.session import Session
from vega3d.modeling.fusion_vega3d import FUSIONS
from vega3d.processing.video_vega3d import read_video
from vega3d.shipped import example_clip


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def either(request, tiny, tmp_path_factory):
    """Model and processor around each VLM."""
    if request.param == "qwen2_5_vl":
        return tiny
    return load_vega(save_checkpoint(tmp_path_factory.mktemp("answerers"), request.param), device="cpu")


def record(clip: str = "room", choice: bool = True, number: int = 0) -> AnnotatedQuestion:
    return AnnotatedQuestion(
        id=str(number),
        dataset="clips",
        scene=clip,
        question_type="object_rel_distance" if choice else "object_counting",
        question=f"Question {number}: what is nearer to the bed?",
        answer="A" if choice else "2",
        options=BARE_OPTIONS if choice else (),
        visual=example_clip(clip),
    )


def test_likelihood_and_text_are_those_of_a_single_question(either):
    """The two ways of answering, done apart without anything kept, agree bit for bit."""
    answerer = ModelAnswerer(*either, "frozen", num_frames=6)
    text, probabilities = answerer.answer([record()])[0]
    asked = record()
    session = Session(*either, num_frames=6)

    likelihood = session.ask(asked.visual, asked.question, BARE_OPTIONS)

    assert probabilities == likelihood.options

    free = session.ask(asked.visual, asked.prompt, max_new_tokens=16)
    assert text.strip() == free.text

    text, probabilities = answerer.answer([record(choice=False)])[0]
    free = session.ask(asked.visual, record(choice=False).prompt, max_new_tokens=16)
    assert probabilities is None and text.strip() == free.text


def test_answers_do_not_depend_on_order(either):
    questions = [record(), record("study", number=1), record(number=2), record("room", choice=False, number=3)]
    forth, back = (ModelAnswerer(*either, "tiny", num_frames=5) for _ in range(2))
    answers = [forth.answer([question])[0] for question in questions]
    assert answers == [back.answer([question])[0] for question in reversed(questions)][::-1]
    assert answers[0][1] != answers[1][1]


def test_a_fusion_that_reads_the_question_keeps_nothing_of_the_last_one():
    model, processor = load_vega(FROZEN, device="cpu", dtype="float32")
    torch.manual_seed(0)
    model.config.fusion = "instruction_gated"
    model.model.fusion = FUSIONS["instruction_gated"](model.config).eval()
    questions = [record(), record(number=1)]
    answerer = ModelAnswerer(model, processor, "tiny", num_frames=4)
    answers = []

    for question in questions:
        [answer] = answerer.answer([question])
        assert [answer] == ModelAnswerer(model, processor, "tiny", num_frames=4).answer([question])
        answers.append(answer)

    assert answers[0][1] != answers[1][1]


def test_a_scene_costs_one_pass_of_generator_and_vision_tower(either):
    model, processor = either
    for module in (model.model.generator.tower, model.model.vlm.model.visual):
        passes: list[int] = []
        hook = module.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        answerer = ModelAnswerer(model, processor, "tiny", num_frames=4)
        answerer.answer([record()])[0]
        once = len(passes)
        answerer.answer([record(number=1)])
        assert once > 0 and len(passes) == once
        answerer.answer([record("study", number=2)])
        assert len(passes) == 2 * once
        hook.remove()


def test_clips_in_memory_are_sampled_like_files(tiny):
    whole = read_video(example_clip("room"), num_frames=10_000)
    from_memory = ModelAnswerer(*tiny, "tiny", num_frames=5).answer([replace(record(), visual=whole)])[0]
    assert from_memory == ModelAnswerer(*tiny, "tiny", num_frames=5).answer([record()])[0]


def test_the_result_says_what_answered(tiny):
    settings = ModelAnswerer(*tiny, "frozen").settings
    assert settings["num_frames"] == tiny[1].num_frames and settings["generation"] == GENERATION
    assert settings["notice"] == FROZEN_CONFIG["notice"]
    assert settings["seed"] == tiny[0].config.generator_config.noise_seed
    assert ModelAnswerer(*tiny, "frozen", fps=2).settings["num_frames"] is None


def test_the_blind_model_sees_no_video(tiny):
    blind = BlindAnswerer(*tiny, "frozen")
    first = blind.answer([record()])[0]
    assert first == blind.answer([replace(record(), visual=None)])[0]
    assert first == blind.answer([replace(record("study"), scene="other")])[0]
    assert first[1].keys() == set("ABC") and sum(first[1].values()) == pytest.approx(1)
    assert first[1] != ModelAnswerer(*tiny, "tiny", num_frames=4).answer([record()])[0][1]
    assert blind.settings["kind"] == "blind"
    assert first[1] != blind.answer([replace(record(), question="How many beds are there?")])[0][1]


def test_a_model_without_generator_answers(either):
    """`fusion="none"`, the plain VLM, is a baseline too."""
    model, processor = either
    fusion = model.config.fusion
    model.config.fusion = "none"
    try:
        text, probabilities = ModelAnswerer(model, processor, "plain", num_frames=4).answer([record()])[0]
    finally:
        model.config.fusion = fusion
    assert isinstance(text, str) and all(math.isfinite(value) for value in probabilities.values())


def test_a_missing_video_is_refused(tiny):
    with pytest.raises(ValueError, match=r"Question 0 has no video clips/room\.mp4"):
        ModelAnswerer(*tiny, "tiny").answer([replace(record(), visual=None)])[0]
    with pytest.raises(ValueError, match=r"absent\.mp4"):
        ModelAnswerer(*tiny, "tiny").answer([replace(record(), visual=example_clip("room").with_name("absent.mp4"))])[
            0
        ]


def test_no_gradients(tiny):
    enabled: list[bool] = []
    hook = tiny[0].model.fusion.register_forward_hook(lambda *_: enabled.append(torch.is_grad_enabled()))
    ModelAnswerer(*tiny, "tiny", num_frames=2).answer([record()])[0]
    hook.remove()
    assert enabled == [False] and torch.is_grad_enabled()


def test_chance():
    records = [item for item in question_records(scenes=300) if item.options]
    answers = [ChanceAnswerer(seed=3).answer([item])[0] for item in records]
    letters = [text for text, _ in answers]
    assert all(abs(letters.count(letter) / len(letters) - 1 / 3) < 0.04 for letter in "ABC")
    assert all(set(probabilities.values()) == {1 / 3} for _, probabilities in answers)
    assert answers == ChanceAnswerer(seed=3).answer(records)
    assert answers != [ChanceAnswerer(seed=4).answer([item])[0] for item in records]
    assert ChanceAnswerer().answer([record(choice=False)])[0] == ("", None)


def counted(question_type: str, answers: list[str], scene: str = "train") -> list[AnnotatedQuestion]:
    return [
        AnnotatedQuestion(
            None,
            "?",
            BARE_OPTIONS,
            id=str(number),
            dataset="rooms",
            scene=scene,
            question_type=question_type,
            answer=answer,
        )
        for number, answer in enumerate(answers)
    ]


def test_most_frequent():
    train = counted("object_counting", ["10", "2", "10", "2", "3"]) + counted("route_planning", ["B", "A", "C", "C"])
    answerer = MostFrequentAnswerer(train)
    asked = replace(record(choice=False), dataset="rooms")
    assert answerer.answer([asked])[0] == ("2", None)  # of equals the smaller number, not the first text
    assert answerer.answer([replace(asked, question_type="route_planning", options=BARE_OPTIONS)])[0] == ("C", None)
    assert answerer.settings["answers"] == {"object_counting": "2", "route_planning": "C"}


def test_most_frequent_is_never_counted_on_the_test_scenes():
    train = counted("object_counting", ["2"])
    with pytest.raises(
        ValueError, match="Question 0 is on rooms/train, which the most frequent answers were counted on"
    ):
        MostFrequentAnswerer(train).answer([train[0]])
    with pytest.raises(ValueError, match="training table has no object_rel_distance, but question 0"):
        MostFrequentAnswerer(train).answer([record()])[0]
    with pytest.raises(ValueError, match="got none"):
        MostFrequentAnswerer([])


def test_a_constant_is_the_best_one_of_its_type_and_a_choice_is_chance():
    truths, kind = ("20", "9", "10"), "room_size_estimation"
    sizes = [{"question_type": kind, "ground_truth": truth, "options": []} for truth in truths]
    choices = [
        {"question_type": "route_planning", "ground_truth": "A", "options": ["A. x"] * count} for count in (2, 4)
    ]
    scores = constant_scores([*sizes, *choices])
    # 10 is right once, 1/9 from 9, which 8 of the ten thresholds allow, and half of 20, which the first does.
    assert scores["room_size_estimation"] == pytest.approx((1 + 0.8 + 0.1) / 3)
    assert scores["route_planning"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert scores["macro"] == pytest.approx((1.9 / 3 + 0.375) / 2)
