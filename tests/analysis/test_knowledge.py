"""`benchmarks/knowledge.py`: what options of the generator's speed cost, at toy size."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from posed_clips import ROOM, SETTINGS, room_clip, room_depth, write_scannet

from benchmarks import knowledge
from benchmarks.knowledge import REFERENCE, Knowledge, Option
from tiny_models import save_generator
from vega3d import VegaGenerator
from vega3d.analysis.clips import PosedClip
from vega3d.analysis.layouts import find_clips
from vega3d.analysis.readings import clip_targets
from vega3d.analysis.tokens import at_views, generator_frames
from vega3d.geometry import look_at
from vega3d.hub.load import published_generator

FRAMES, TRAIN, TEST = 9, 10, 4
STRIDE = {REFERENCE: Option(), "frame_stride=2": Option({"frame_stride": 2})}


def wandering(seed: int) -> PosedClip:
    """A camera in an empty room that turns by up to 25 degrees a frame; images are noise of its own."""
    random = np.random.default_rng(seed)
    clip = room_clip(frames=FRAMES, name=f"scene{seed:04d}_00")
    angles = np.radians(np.cumsum(random.uniform(-25, 25, FRAMES)))
    ahead = np.stack([np.cos(angles), np.sin(angles), np.zeros(FRAMES)], axis=1)
    poses = np.stack([look_at(ROOM / 2, ROOM / 2 + step) for step in ahead])
    depth = np.stack([room_depth(pose, clip.intrinsics, 128, 96) for pose in poses])
    images = random.integers(0, 256, clip.frames.shape, dtype=np.uint8)
    return dataclasses.replace(clip, frames=images, depth=depth, world_from_camera=poses)


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for seed in range(TRAIN + TEST):
        part = "train" if seed < TRAIN else "test"
        clip = wandering(seed)
        write_scannet(folder / part / clip.name, clip)
    return folder


@pytest.fixture(scope="module")
def generator_folder(tmp_path_factory) -> Path:
    return save_generator(tmp_path_factory.mktemp("generator"))


@pytest.fixture(scope="module")
def generator(generator_folder) -> VegaGenerator:
    return published_generator(generator_folder, torch.device("cpu"))[0].variant(clip_mode="views")


def measurement(generator: VegaGenerator, scans: Path, train: int = 2, test: int = 2, **options) -> Knowledge:
    sources = {"train": find_clips(scans / "train", limit=train), "test": find_clips(scans / "test", limit=test)}
    return Knowledge(generator=generator, frames=SETTINGS, views=FRAMES, **sources, **options)


class Planted:
    """Reads, in place of features, the heading of each frame that the generator sees, and the depth of its tokens."""

    def __init__(self, run: Knowledge):
        self.features: dict[bytes, torch.Tensor] = {}
        for source in (*run.train, *run.test):
            clip = run.store.clip(source)
            fit = run.fit(clip)
            targets = clip_targets(clip, fit, ["depth"])
            ahead = clip.world_from_camera[:, :2, 2]
            yaw = np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))
            values = np.stack(np.broadcast_arrays(yaw[:, None], targets.values[..., 0]), axis=-1)
            self.features[generator_frames(clip.frames, fit).numpy().tobytes()] = torch.from_numpy(
                values.reshape(FRAMES, *fit.grid, 2)
            )

    def __call__(self, variant, frames, blocks, timesteps):
        states = self.features[frames.numpy().tobytes()][:: variant.config.frame_stride]
        yield timesteps[0], dict.fromkeys(blocks, states)


class Counted:
    """Reads as the generator does, and counts the passes."""

    def __init__(self):
        self.passes = 0

    def __call__(self, variant, frames, blocks, timesteps):
        self.passes += 1
        yield from variant.read(frames, blocks, timesteps)


def mean_of(rows: list[dict], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def test_a_patch_is_asked_about_both_of_its_frames():
    clip = wandering(0)
    fit = knowledge.frame_fit(*clip.frames.shape[1:3], SETTINGS)

    first, second = knowledge.ask(clip, fit, ["depth", "turn"])

    assert np.array_equal(first.clip.frames, clip.frames[[0, 2, 4, 6, 8]])
    assert np.array_equal(second.clip.frames, clip.frames[[1, 3, 5, 7, 8]])  # an odd clip repeats its last frame
    every = clip_targets(at_views(clip, np.array([1, 3])), fit, ["turn"]).samples["turn"].values
    assert second.targets.samples["turn"].values[0] == pytest.approx(every[0])
    assert first.seen is not None and first.seen.shape[0] == 2  # patches 1 and 3


def test_a_stride_knows_the_frames_that_it_sees(generator, scans):
    run = measurement(generator, scans, TRAIN, TEST)
    run.reader = Planted(run)

    rows = dict(run.rows(STRIDE))

    strided, both = rows["frame_stride=2"], rows[REFERENCE]
    assert mean_of(strided, "turn_error_first") < 0.5 and mean_of(strided, "depth_rmse_first") < 0.01
    assert mean_of(strided, "turn_error_second") > 3 and mean_of(strided, "depth_rmse_second") > 0.1
    assert mean_of(both, "turn_error_second") < mean_of(strided, "turn_error_second")
    assert mean_of(both, "turn_error_first") > 2 * mean_of(strided, "turn_error_first")
    assert mean_of(strided, "turn_error") == pytest.approx(
        (mean_of(strided, "turn_error_first") + mean_of(strided, "turn_error_second")) / 2
    )


def test_all_options_are_read_on_one_grid(generator, scans):
    run = measurement(generator, scans)
    source = run.test[0]
    clip = run.store.clip(source)

    for option in knowledge.speed_options(generator, SETTINGS).values():
        if option.changes.get("linear_precision") or option.changes.get("compile"):
            continue
        variant = knowledge.make_variant(generator, option)
        assert next(variant.tower.parameters()).dtype == (option.dtype or torch.float32)
        block = variant.config.block_index
        states = run.features(variant, source, [block], option.shrink)[block]
        assert states.shape[:3] == (5, 6, 8)

    assert run.fit(clip).grid == (6, 8) and run.fit(clip, 2).grid == (3, 4)


def test_exits_are_those_of_generators_that_end_there(generator, scans):
    exits = {REFERENCE: Option(), "block=0": Option({"block": 0})}

    together = dict(measurement(generator, scans).rows(exits))

    alone = dict(measurement(generator.variant(block=0), scans).rows({REFERENCE: Option()}))
    assert together["block=0"] == [{**row, "option": "block=0"} for row in alone[REFERENCE]]
    assert together["block=0"][0]["depth_rmse"] != together[REFERENCE][0]["depth_rmse"]


def test_options_that_round_are_read_by_the_probes_of_the_reference(generator, scans):
    run = measurement(generator, scans, test=TEST, rounding_clips=2)
    seed = {"noise_seed": 1}
    options = {REFERENCE: Option(), "same": Option(is_rounding=True), "own": Option(seed)}
    options["other"] = Option(seed, is_rounding=True)

    rows = dict(run.rows(options))

    whole = [{**row, "option": "same"} for row in rows[REFERENCE]]
    assert rows["same"] == [whole[0], whole[2]]
    assert [row["clip"] for row in rows["other"]] == [row["clip"] for row in rows["same"]]
    assert rows["other"][0]["depth_rmse"] != rows["own"][0]["depth_rmse"]


def test_finished_options_are_not_measured_again(generator, scans, tmp_path):
    reader = Counted()
    first = dict(measurement(generator, scans, reader=reader, parts=tmp_path).rows({REFERENCE: Option()}))
    passes = reader.passes

    again = dict(measurement(generator, scans, reader=reader, parts=tmp_path).rows(STRIDE))

    assert passes == 4 and reader.passes == 8  # the stride alone
    assert again[REFERENCE] == first[REFERENCE]

    other = measurement(generator, scans, test=1, reader=reader, parts=tmp_path)
    assert len(dict(other.rows({REFERENCE: Option()}))[REFERENCE]) == 1 and reader.passes == 11


def test_result_has_times_figures_and_what_was_left_out(generator_folder, scans, tmp_path, capsys):
    output = tmp_path / "knowledge.json"
    data = ("--data", scans / "test", "--train-data", scans / "train", "--clips", 2, "--train-clips", 2)
    asked = ("--options", "frame_stride=2", "int8", "--frames", FRAMES, "--block", 1, "--repeats", 2)

    arguments = (generator_folder, *data, *asked, "--device", "cpu", "--resamples", 20, "--output", output)
    knowledge.main(list(map(str, arguments)))

    result = json.loads(output.read_text())
    assert list(result["options"]) == [REFERENCE, "frame_stride=2", "mean", "position"]
    assert result["times"][REFERENCE]["ratio"] == 1 and set(result["times"]) == {REFERENCE, "frame_stride=2"}
    assert result["setting"]["block"] == 1 and result["test"]["clips"] == 2
    assert "sides in multiples of 16" in result["left_out"]["int8"]  # those of the tiny generator are not
    assert "minus_reference" not in result["options"][REFERENCE]

    minus, own, reference = (
        values["turn_error"]["score"]
        for values in (
            result["options"]["frame_stride=2"]["minus_reference"],
            result["options"]["frame_stride=2"]["figures"],
            result["options"][REFERENCE]["figures"],
        )
    )
    assert minus == pytest.approx(own - reference)
    assert "left out: int8: linear_precision='int8'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--options", "faster"], "There is no option 'faster'. Choose of reference; frame_stride=2;"),
        (["--frames", "6"], "--frames is 6, but must be a whole number, at least 7."),
        (["--block", "99"], "block=99 is out of range: it must be in [-3, 2]"),
    ],
)
def test_bad_input_ends_in_one_line(generator_folder, given, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        knowledge.main([str(generator_folder), "--device", "cpu", *given])

    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1


def test_another_file_is_not_replaced(generator_folder, tmp_path, capsys):
    output = tmp_path / "notes.json"
    output.write_text('{"mine": true}')

    with pytest.raises(SystemExit):
        knowledge.main([str(generator_folder), "--output", str(output), "--frames", "6"])

    assert "was not made by this command" in capsys.readouterr().err
    assert output.read_text() == '{"mine": true}'
