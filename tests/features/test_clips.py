"""Clips with the boxes of a question; features of a corpus, found again by the evaluator, by `ask` and the command."""

import json
import shutil

import numpy as np
import pytest

from command_line import run
from vega3d.evaluation.answerers import ModelAnswerer
from vega3d.evaluation.vsibench import load_vsibench
from vega3d.features.cache import FeatureCache
from vega3d.features.clips import CorpusClip, corpus_clips, extract, sampled_clip
from vega3d.inference.session import Session
from vega3d.processing.video_vega3d import clip_from_frames
from vega3d.questions import SpatialQuestion
from vega3d.rooms.dataset.dataset import DatasetSettings, synthesize
from vega3d.shipped import example_clip


@pytest.mark.parametrize("frame", [None, -1, 2.0, "2"])
def test_boxes_without_a_frame_to_draw_them_on_are_refused(frame):
    clip = clip_from_frames(np.zeros((5, 48, 64, 3), np.uint8), fps=1)

    with pytest.raises(ValueError, match=r"1 boxes are marked on frame .*must be a whole number from 0"):
        sampled_clip(clip, 3, marked_frame=frame, marks=[(4, 4, 20, 20)])


def test_boxes_are_drawn_on_their_frame():
    clip = clip_from_frames(np.zeros((5, 48, 64, 3), np.uint8), fps=1)

    sampled = sampled_clip(clip, 2, marked_frame=3, marks=[(4, 4, 20, 20)])

    assert sampled.seconds.tolist() == [0, 3]
    assert [bool(frame.any()) for frame in sampled.frames] == [False, True]


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rooms") / "data"
    synthesize(folder, DatasetSettings("test", size=128, num_frames=6), 2)
    return folder


@pytest.fixture
def unused_generator(tiny, monkeypatch):
    """Fails if the generator is asked for anything."""

    def fail(*_, **__):
        raise AssertionError("the generator ran")

    return lambda: monkeypatch.setattr(tiny[0].model.generator.tower, "encode_frames", fail)


def test_clips_of_a_corpus(rooms, tmp_path):
    clips = corpus_clips(rooms)
    assert len(clips) == len(set(clips)) and {clip.video.suffix for clip in clips} == {".mp4"}
    assert any(clip.marks for clip in clips) and any(not clip.marks for clip in clips)
    assert corpus_clips(rooms, "test") == clips
    video = example_clip("room")
    assert corpus_clips(video) == [CorpusClip(video)]
    (tmp_path / "deep" / "er").mkdir(parents=True)
    shutil.copy(video, tmp_path / "deep" / "er" / "one.MP4")
    assert corpus_clips(tmp_path) == [CorpusClip(tmp_path / "deep" / "er" / "one.MP4")]


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere", "is not there"), ("empty", "has no videos"), ("table", r"cannot be read")]
)
def test_bad_corpora_are_refused(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "test.parquet").write_bytes(b"none")
    with pytest.raises(ValueError, match=message):
        corpus_clips(tmp_path / name)


def test_the_evaluator_finds_what_was_extracted(rooms, tiny, tmp_path, unused_generator):
    model, processor = tiny
    records, _ = load_vsibench(rooms / "test.parquet")
    records = [record for record in records if record.options][:2] + [record for record in records if record.marks][:1]
    online = ModelAnswerer(model, processor, "tiny").answer(records)
    cache = FeatureCache(tmp_path)
    counted = []

    extract(cache, model.model.generator, processor, corpus_clips(rooms), on_progress=counted.append)

    assert sum(counted) == len(corpus_clips(rooms)) == cache.stats()["entries"]

    unused_generator()
    cached = ModelAnswerer(model, processor, "tiny", cache=cache)

    assert cached.settings["cached_features"]
    for (_, ours), (_, expected) in zip(cached.answer(records), online, strict=True):
        assert ours == pytest.approx(expected, abs=0.01)


def test_one_question_finds_what_was_extracted(tiny, tmp_path, unused_generator):
    model, processor = tiny
    question = SpatialQuestion(example_clip("room"), "Which is larger?", ("the bed", "the shelf"))
    online = Session(model, processor, num_frames=4).answer(question)
    cache = FeatureCache(tmp_path)
    frames = []
    first = Session(model, processor, num_frames=4, cache=cache).answer(question, on_progress=frames.append)
    assert sum(frames) == 4
    unused_generator()
    again = Session(model, processor, num_frames=4, cache=cache).answer(question)
    assert again.options == first.options == pytest.approx(online.options, abs=0.01)


def test_the_command(rooms, tmp_path):
    done = run("cache", rooms, "--cache", tmp_path / "c", "--num-frames", 4, "--json")
    assert done.exit_code == 0, done.output
    whole = json.loads(done.stdout)
    assert whole["entries"] == len(corpus_clips(rooms))
    several = ["--block", "0,1", "--timestep", "100,300"]
    again = run("cache", rooms, "--cache", tmp_path / "c", "--num-frames", 4, *several, "--json")
    assert json.loads(again.stdout)["entries"] == 5 * whole["entries"]
    assert json.loads(run("cache", "--verify", "--cache", tmp_path / "c", "--json").stdout)["bad"] == 0
    cleared = json.loads(run("cache", "--clear", "--cache", tmp_path / "c", "--json").stdout)
    assert cleared["removed"] == 5 * whole["entries"] and cleared["entries"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give DATA, --merge, --stats, --verify or --clear, and one of them only, not nothing"),
        (["nowhere", "--stats"], "not DATA and --stats"),
        (["nowhere"], "nowhere is not there"),
        (["nowhere", "--timestep", "3"], "--timestep goes with --block"),
        (["nowhere", "--block", "1,x"], "--block is '1,x', but must be whole numbers with commas"),
        (["nowhere", "--max-gib", "0"], "--max-gib is 0.0, but must be positive"),
    ],
)
def test_bad_arguments_of_the_command(tmp_path, arguments, message):
    done = run("cache", *arguments, "--cache", tmp_path / "c")
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_a_block_that_is_not_there(tmp_path):
    done = run("cache", example_clip("room"), "--cache", tmp_path / "c", "--block", 99)
    assert done.exit_code == 2 and "block=99 is out of range" in done.stderr
