"""Two answers of one model: with the world simulator as `ask` gives them, without as the plain VLM would."""

import os
import shutil
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tiny_checkpoints import FROZEN, save_checkpoint
from vega3d.demo.compare import Comparer
from vega3d.features.cache import FeatureCache
from vega3d.hub.load import load_vega
from vega3d.inference.session import Session
from vega3d.questions import SpatialQuestion
from vega3d.shipped import example_clip

OPEN = SpatialQuestion(example_clip("room"), "Where is the bed?")
CHOICE = SpatialQuestion(example_clip("room"), "Which is nearest?", ["the bed", "the shelf", "the lamp"])


def last(comparer: Comparer, question: SpatialQuestion, **options):
    *_, state = comparer.compare(question, **options)
    return state


def assert_same(reply, expected):
    assert reply.text == expected.text
    assert reply.options == (None if expected.options is None else pytest.approx(expected.options, abs=1e-5))


@pytest.mark.parametrize("question", [OPEN, CHOICE], ids=["open", "choice"])
def test_both_answers_are_those_of_ask(tiny, question):
    state = last(Comparer(Session(*tiny)), question, max_new_tokens=12)
    assert_same(state.fused, Session(*tiny).answer(question, max_new_tokens=12))
    scale = tiny[0].model.fusion.residual_scale
    opened = scale.detach().clone()
    with torch.no_grad():
        scale.zero_()  # leaves the VLM's own tokens, bit for bit
        closed = Session(*tiny).answer(question, max_new_tokens=12)
        scale.copy_(opened)
    assert_same(state.semantic, closed)
    assert question is OPEN or state.semantic.options != state.fused.options


def test_gates_and_frames(tiny):
    clip = last(Comparer(Session(*tiny, num_frames=5)), CHOICE).clip
    expected = Session(*tiny, num_frames=5).answer(CHOICE, output_gates=True)
    assert torch.equal(clip.gates, expected.gates)
    assert [round(second, 3) for second in clip.seconds] == expected.frame_seconds
    assert clip.frames.shape == (5, 288, 384, 3)


def test_an_open_answer_grows(tiny):
    states = list(Comparer(Session(*tiny, num_frames=2)).compare(OPEN, max_new_tokens=8))
    assert states[0].fused.text == "" and states[0].fused.seconds is None
    grown = [state.fused for state in states if state.semantic.text == "" and state.semantic.seconds is None]
    assert len(grown) > 4
    assert all(later.text.startswith(earlier.text) for earlier, later in pairwise(grown[:-1]))
    assert grown[-1].seconds is not None and states[-1].semantic.seconds is not None


def test_a_second_question_does_not_encode_again(tiny, tmp_path):
    video = Path(shutil.copy(example_clip("room"), tmp_path / "clip.mp4"))
    comparer, frames = Comparer(Session(*tiny, num_frames=4, stored_clips=2)), []

    def ask(**options) -> bool:
        question = SpatialQuestion(video, "Which?", ["this", "that"], **options)
        return last(comparer, question, on_progress=frames.append).was_stored

    assert not ask()
    assert sum(frames) == 4
    assert ask()
    assert sum(frames) == 4
    os.utime(video, (1, 1))  # as a new copy of the same upload
    assert ask()
    assert not ask(frame=0, marks=[(10, 10, 90, 90)])  # other pixels
    shutil.copy(example_clip("study"), video)
    assert not ask()
    assert len(comparer.session._clips) == 2
    shutil.copy(example_clip("room"), video)
    assert ask(frame=0, marks=[(10, 10, 90, 90)])
    assert not ask()  # was used longest ago


def test_features_are_kept_on_disk(tiny, tmp_path):
    cache = FeatureCache(tmp_path)
    first = last(Comparer(Session(*tiny, cache=cache, num_frames=4)), CHOICE)
    assert cache.stats()["entries"] == 1
    again = last(Comparer(Session(*tiny, cache=cache, num_frames=4)), CHOICE)
    assert again.fused.options == first.fused.options and not again.was_stored
    assert cache.stats()["entries"] == 1


def test_a_fusion_that_reads_the_question_is_run_for_each(tmp_path):
    either = load_vega(save_checkpoint(tmp_path, "qwen3_vl", fusion="instruction_gated"), device="cpu")
    comparer = Comparer(Session(*either, num_frames=5))
    other = SpatialQuestion(CHOICE.visual, "Which is it that you would reach first?", CHOICE.options)
    for question in (CHOICE, other):
        state = last(comparer, question)
        assert_same(state.fused, Session(*either, num_frames=5).answer(question))
    assert state.was_stored and state.clip.gates is not None


def test_no_map_without_a_gate_for_each_token(tmp_path):
    either = load_vega(save_checkpoint(tmp_path, "qwen2_5_vl", fusion="channel_gated"), device="cpu")
    state = last(Comparer(Session(*either, num_frames=2)), CHOICE)
    assert state.clip.gates is None
    assert_same(state.fused, Session(*either, num_frames=2).answer(CHOICE))


def test_one_who_stops_listening_stops_the_model(tiny):
    answer = Comparer(Session(*tiny, num_frames=2)).compare(OPEN, max_new_tokens=2_000)
    for _ in range(4):
        next(answer)
    start = time.process_time()
    answer.close()
    assert time.process_time() - start < 5


def test_a_fault_in_the_model_is_not_swallowed(tiny):
    with pytest.raises(ValueError, match="max_new_tokens"):
        last(Comparer(Session(*tiny, num_frames=2)), OPEN, max_new_tokens=0)


def test_placeholders_in_a_question_are_refused(tiny):
    with pytest.raises(ValueError, match="placeholders"):
        last(Comparer(Session(*tiny)), SpatialQuestion(OPEN.visual, f"What is {tiny[1].video_token}?"))


def test_a_model_without_a_world_simulator_is_refused(tmp_path):
    either = load_vega(save_checkpoint(tmp_path, "qwen2_5_vl", fusion="none"), device="cpu")
    with pytest.raises(ValueError, match="no world simulator"):
        Comparer(Session(*either))


@pytest.mark.parametrize("question", [OPEN, CHOICE], ids=["open", "choice"])
@pytest.mark.parametrize("place", ["gate", "words"])
def test_a_model_that_is_broken_gives_an_error_and_no_answer(question, place):
    model, processor = load_vega(FROZEN, device="cpu")
    with torch.no_grad():
        part = model.model.fusion if place == "gate" else model.get_input_embeddings()
        for weight in part.parameters():
            weight.fill_(float("nan"))

    with pytest.raises(ValueError, match=r"NaN|not finite"):
        last(Comparer(Session(model, processor, num_frames=2)), question, max_new_tokens=4)
