"""A session: the answers of the bare model, for the price of one pass of the generator a clip."""

import shutil
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vega3d
from analysis.posed_clips import room_clip
from tiny_checkpoints import FROZEN, VLM_PROCESSORS, save_checkpoint
from vega3d.features.cache import FeatureCache
from vega3d.hub.load import load_vega
from vega3d.inference.answer import letter_probabilities
from vega3d.inference.session import Session
from vega3d.inference.streams import StreamSession
from vega3d.processing.video_vega3d import read_video
from vega3d.questions import SpatialQuestion
from vega3d.shipped import example_clip

CLOSEST = (
    "Measuring from the closest point of each object, which of these objects (teddy bear, door, nightstand, chair) is "
    "the closest to the clock?"
)
OBJECTS = ["teddy bear", "door", "nightstand", "chair"]
CHOICE = SpatialQuestion("room", CLOSEST, OBJECTS)
NUMBER = SpatialQuestion("room", "How many chair(s) are in this room?", is_numeric=True)
TEXT = SpatialQuestion("room", "Where is the bed, from the first frame?")
QUESTIONS = {"choice": CHOICE, "number": NUMBER, "text": TEXT}
MARKS = ((10, 12, 50, 40), (60, 20, 90, 45))


@pytest.fixture(scope="module", params=VLM_PROCESSORS)
def either(request, tmp_path_factory):
    """Model and processor around each VLM."""
    return load_vega(save_checkpoint(tmp_path_factory.mktemp("session"), request.param), device="cpu")


@pytest.fixture(scope="module", params=["instruction_gated", "channel_gated", "none"])
def other_fusion(request, tmp_path_factory):
    """Model and processor with a fusion that reads the question, one without a gate a token, and none."""
    folder = save_checkpoint(tmp_path_factory.mktemp("fusion"), "qwen2_5_vl", fusion=request.param)
    return load_vega(folder, device="cpu")


@torch.no_grad()
def bare_answer(model, processor, question: SpatialQuestion, num_frames: int, plain: bool = False):
    """Text and probabilities by processor and model alone; `plain` asks the VLM without generator and fusion."""
    visual = example_clip(question.visual) if question.visual is CHOICE.visual else question.visual
    inputs = processor.apply_chat_template(
        replace(question, visual=visual).messages(),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        num_frames=num_frames,
    )
    asked = model.model.vlm if plain else model
    inputs = {name: value for name, value in inputs.items() if not (plain and name.startswith("generator_"))}
    if question.options:
        logits = asked(**inputs, logits_to_keep=1).logits[0, -1]
        return None, letter_probabilities(logits, question.letters, processor.tokenizer)
    generated = asked.generate(**inputs, max_new_tokens=8, do_sample=False)
    text = processor.decode(generated[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text.strip(), None


def check_same(answer, expected) -> None:
    text, options = expected
    assert answer.options == options
    if options is None:
        assert answer.text == text
    else:
        assert answer.text[0] == max(options, key=options.get)


def test_three_lines_give_an_answer():
    session = vega3d.load(FROZEN, device="cpu")

    answer = session.ask("room", CLOSEST, options=OBJECTS)

    best = max(answer.options, key=answer.options.get)
    assert answer.text == f"{best}. {OBJECTS['ABCD'.index(best)]}"
    assert sum(answer.options.values()) == pytest.approx(1)
    assert len(answer.frame_seconds) == session.processor.num_frames and answer.seconds > 0


@pytest.mark.parametrize("kind", QUESTIONS)
def test_answers_are_those_of_the_bare_model(either, kind):
    session = Session(*either, num_frames=5)

    for _ in range(2):  # encoded now, and found in memory
        check_same(session.answer(QUESTIONS[kind], max_new_tokens=8), bare_answer(*either, QUESTIONS[kind], 5))


@pytest.mark.parametrize("kind", QUESTIONS)
def test_without_the_generator_they_are_those_of_the_plain_vlm(either, kind):
    model, processor = either
    frames: list[int] = []

    answer = Session(model, processor, num_frames=5).answer(
        QUESTIONS[kind], with_generator=False, max_new_tokens=8, on_progress=frames.append
    )

    check_same(answer, bare_answer(model, processor, QUESTIONS[kind], 5, plain=True))
    assert frames == []


@pytest.mark.parametrize("kind", QUESTIONS)
def test_every_fusion_answers_as_the_bare_model(other_fusion, kind):
    session = Session(*other_fusion, num_frames=4)

    for question in (CHOICE, QUESTIONS[kind]):  # the second on a clip that was encoded for the first
        check_same(session.answer(question, max_new_tokens=8), bare_answer(*other_fusion, question, 4))


def test_a_clip_is_encoded_once(tiny, tmp_path):
    session, frames = Session(*tiny, num_frames=4), []
    copy = Path(shutil.copy(example_clip("room"), tmp_path / "copy.mp4"))

    for question in (*QUESTIONS.values(), replace(CHOICE, visual=copy)):
        session.answer(question, max_new_tokens=2, on_progress=frames.append)
    session.answer(CHOICE, with_generator=False, on_progress=frames.append)
    session.answer_batch([CHOICE, NUMBER], max_new_tokens=2)
    assert sum(frames) == 4

    marked = replace(CHOICE, frame=0, marks=MARKS)
    for question in (marked, replace(CHOICE, visual="study"), marked):
        session.answer(question, on_progress=frames.append)
    assert sum(frames) == 12


def test_frames_in_memory_are_known_by_their_content(tiny):
    session, frames = Session(*tiny, num_frames=3), []
    clip = read_video(example_clip("room"), num_frames=3)

    first = session.answer(replace(CHOICE, visual=clip), on_progress=frames.append)
    again = session.answer(replace(CHOICE, visual=replace(clip, frames=clip.frames.copy())), on_progress=frames.append)
    assert sum(frames) == 3 and again.options == first.options

    clip.frames[:] = 255 - clip.frames
    other = session.answer(replace(CHOICE, visual=clip), on_progress=frames.append)
    assert sum(frames) == 6 and other.options != first.options


def test_the_clip_used_longest_ago_goes_first(tiny):
    session, frames = Session(*tiny, num_frames=4, stored_clips=2), []
    clips = [replace(CHOICE, visual=read_video(example_clip("room"), num_frames=count)) for count in (2, 3, 4)]

    def encode(number: int) -> int:
        before = len(frames)
        session.encode(clips[number], on_progress=frames.append)
        return len(frames) > before

    assert [encode(number) for number in (0, 1, 0, 2, 0, 1)] == [True, True, False, True, False, True]
    assert [session.is_encoded(clip) for clip in clips] == [True, True, False]


def test_parts_are_added_to_a_clip_in_memory(tiny):
    session, frames = Session(*tiny, num_frames=4), []

    semantic = session.encode("room", with_generator=False, with_semantic=True, on_progress=frames.append)
    assert semantic.fused is None and semantic.frames is None and frames == []
    whole = session.encode("room", with_frames=True, on_progress=frames.append)

    assert whole.semantic is semantic.semantic and whole.fused is not None
    assert whole.frames.shape == (4, 288, 384, 3) and whole.gates.shape[0] == 2
    assert session.encode("room") is whole and sum(frames) == 4


def test_features_are_stored_on_disk(tiny, tmp_path):
    cache, frames = FeatureCache(tmp_path), []

    first = Session(*tiny, cache=cache, num_frames=4).answer(CHOICE)
    again = vega3d.load(FROZEN, device="cpu", cache=tmp_path, num_frames=4).answer(CHOICE, on_progress=frames.append)

    assert cache.stats()["entries"] == 1 and frames == [4]  # found at once
    assert again.options == first.options


def test_gates_lie_on_the_token_grid(either, other_fusion):
    for model, processor in (either, other_fusion):
        answer = Session(model, processor, num_frames=5).answer(CHOICE, output_gates=True)
        if model.config.fusion in ("channel_gated", "none"):
            assert answer.gates is None
        else:
            assert answer.gates.ndim == 3 and answer.gates.shape[0] == 3
            assert ((answer.gates > 0) & (answer.gates < 1)).all()
        assert Session(model, processor, num_frames=5).answer(CHOICE).gates is None


def test_gates_of_a_fusion_that_reads_the_question_are_of_this_question(tmp_path):
    either = load_vega(save_checkpoint(tmp_path, "qwen3_vl", fusion="instruction_gated"), device="cpu")
    session, fresh = (Session(*either, num_frames=4) for _ in range(2))

    first = session.encode(CHOICE, output_gates=True).gates
    second = session.encode(TEXT, output_gates=True).gates

    assert not torch.equal(first, second)
    assert torch.equal(second, fresh.answer(TEXT, output_gates=True, max_new_tokens=1).gates)


@pytest.mark.parametrize("form", ["path", "picture", "array"])
def test_an_image(either, tmp_path, form):
    frame = read_video(example_clip("room"), num_frames=1).frames[0]
    Image.fromarray(frame).save(tmp_path / "view.png")
    visual = {"path": tmp_path / "view.png", "picture": Image.fromarray(frame), "array": frame}[form]
    question = SpatialQuestion(visual, "Is there a bed?", ("Yes", "No"), is_image=True)

    answer = Session(*either).answer(question)

    check_same(answer, bare_answer(*either, question, 1))
    assert answer.frame_seconds is None


def test_a_marked_frame_is_seen(tiny):
    session = Session(*tiny, num_frames=4)
    plain = session.ask("room", "Which box is nearer?", ["box A", "box B"])
    marked = session.ask("room", "Which box is nearer?", ["box A", "box B"], frame=3, marks=MARKS)

    assert marked.options != plain.options
    assert len(marked.frame_seconds) == 4
    with pytest.raises(ValueError, match="Frame 999 is marked"):
        session.ask("room", "Which box is nearer?", ["box A", "box B"], frame=999, marks=MARKS)


@pytest.mark.parametrize("with_generator", [True, False])
def test_a_streamed_answer_grows_to_the_whole_one(tiny, with_generator):
    session = Session(*tiny, num_frames=4)

    grown = list(session.stream(TEXT, with_generator=with_generator, max_new_tokens=12))

    assert len(grown) > 4
    assert all(later.text.startswith(earlier.text) for earlier, later in pairwise(grown[:-1]))
    assert all(answer.seconds is None for answer in grown[:-1]) and grown[-1].seconds > 0
    whole = session.answer(TEXT, with_generator=with_generator, max_new_tokens=12)
    assert replace(grown[-1], seconds=None) == replace(whole, seconds=None)


def test_a_choice_is_streamed_at_once(tiny):
    session = Session(*tiny, num_frames=4)
    [answer] = session.stream(CHOICE)
    assert answer.options == session.answer(CHOICE).options


def test_one_who_stops_listening_stops_the_model(tiny):
    threads = threading.active_count()
    growing = Session(*tiny, num_frames=2).stream(TEXT, max_new_tokens=2_000)
    next(growing)
    start = time.process_time()
    growing.close()

    assert time.process_time() - start < 5 and threading.active_count() == threads


def test_a_batch_answers_each_question_as_if_alone(either):
    session = Session(*either, num_frames=4)
    asked = [CHOICE, replace(NUMBER, visual="study"), replace(CHOICE, frame=3, marks=MARKS), TEXT]

    together = session.answer_batch(asked, max_new_tokens=6)

    for question, (text, probabilities) in zip(asked, together, strict=True):
        [(alone, likelihood)] = session.answer_batch([question], max_new_tokens=6)
        assert text == alone
        assert probabilities == (None if likelihood is None else pytest.approx(likelihood, abs=1e-5))
    answer = session.answer(CHOICE)
    assert session.answer_batch([CHOICE])[0][1] == answer.options


def test_blind_questions_see_nothing(tiny):
    session = Session(*tiny, num_frames=4)
    blind, seen = replace(CHOICE, visual=None), CHOICE

    [(_, alone)] = session.answer_batch([blind])
    both = session.answer_batch([blind, seen])

    assert both[0][1] == pytest.approx(alone, abs=0.02)  # bf16, padded
    assert both[1][1] != both[0][1]


def test_errors_name_the_question(tiny, tmp_path):
    session = Session(*tiny, num_frames=4)
    asked = replace(CHOICE, visual=tmp_path / "absent.mp4", name="17")
    with pytest.raises(ValueError, match=r"Question 17: .*absent\.mp4"):
        session.answer_batch([asked])
    with pytest.raises(ValueError, match="Question 17 holds placeholders"):
        session.answer(replace(CHOICE, question=f"What is {tiny[1].image_token}?", name="17"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stored_clips": 0}, "stored_clips is 0"),
        ({"num_frames": 0}, "num_frames"),
        ({"num_frames": 4, "fps": 2.0}, "num_frames"),
    ],
)
def test_bad_settings_are_refused(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        Session(*tiny, **options)


def test_no_gradients(tiny):
    enabled: list[bool] = []
    hook = tiny[0].model.fusion.register_forward_hook(lambda *_: enabled.append(torch.is_grad_enabled()))
    session = Session(*tiny, num_frames=2)
    session.encode("room")
    list(session.stream(replace(TEXT, visual="study"), max_new_tokens=2))
    hook.remove()
    assert enabled == [False, False] and torch.is_grad_enabled()


def test_frames_per_second(tiny):
    whole = read_video(example_clip("room"), num_frames=10_000)
    answer = Session(*tiny, fps=2.0).answer(CHOICE)
    expected = np.arange(0, whole.seconds[-1], 0.5)
    assert answer.frame_seconds == pytest.approx(expected, abs=0.13)


def test_positions_of_a_posed_clip_reach_the_answer(tmp_path):
    """The answer of the bare model, stored apart from the same frames elsewhere, with and without the generator."""
    model, processor = load_vega(save_checkpoint(tmp_path, "qwen2_5_vl", position_code="sin3d"), device="cpu")
    clip = replace(room_clip(4, 64, 48), seconds=np.arange(4) / 2).video()
    assert clip.geometry is not None
    poses = clip.geometry.world_from_camera.copy()
    poses[:, :3, 3] += 3.0
    elsewhere = replace(clip, geometry=replace(clip.geometry, world_from_camera=poses))
    session = Session(model, processor, num_frames=4)
    answers = []
    for visual in (clip, elsewhere, replace(clip, geometry=None)):
        question = SpatialQuestion(visual, CLOSEST, OBJECTS)
        options = session.answer(question).options
        assert options == pytest.approx(bare_answer(model, processor, question, 4)[1], abs=1e-5)
        streams = StreamSession(model, processor, num_frames=4)
        fused, _ = streams.fused(streams.streams(visual), None, question)
        without = session.answer(question, with_generator=False).options
        assert streams.answer_about(fused, [question])[0][1] == pytest.approx(without, abs=1e-5)
        answers += [options, without]
    assert all(answers[i] != answers[j] for i in range(6) for j in range(i))
