"""A data set of one room: whole, repeatable, resumable, readable as VSI-Bench."""

import json
from pathlib import Path

import numpy as np
import pytest

from vega3d.evaluation.vsibench import load_vsibench
from vega3d.processing.video_vega3d import read_video
from vega3d.synthetic.dataset import DatasetSettings, synthesize

SETTINGS = DatasetSettings(split="validation", size=128, num_frames=5, walks=2, questions_per_type=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    synthesize(folder, SETTINGS, num_scenes=2)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_walkthrough_and_its_geometry(made):
    arrays = np.load(made / "arrays" / "validation_000001_01.npz")
    clip = read_video(made / "rooms" / "validation_000001_01.mp4")
    assert clip.frames.shape == (5, 128, 128, 3)
    assert arrays["depth_mm"].shape == arrays["instance"].shape == (5, 128, 128)
    assert 200 < np.median(arrays["depth_mm"]) < 10_000
    assert arrays["world_from_camera"].shape == (5, 4, 4)
    assert arrays["instance"].max() <= len(arrays["boxes"]) == len(arrays["names"])


def test_it_reads_as_vsibench(made):
    records, missing = load_vsibench(made, table="validation.jsonl")
    assert missing == []
    assert len({record.scene for record in records}) == 4
    assert all(record.visual is not None for record in records)
    assert len({record.question_type for record in records}) >= 5


def test_the_result_does_not_depend_on_the_workers(made, tmp_path):
    synthesize(tmp_path, SETTINGS, num_scenes=2, workers=2)
    assert contents(tmp_path) == contents(made)


def test_what_is_missing_is_made_again(made, tmp_path):
    synthesize(tmp_path, SETTINGS, num_scenes=1)
    (tmp_path / "scenes" / "validation_000000_01.jsonl").unlink()
    (tmp_path / "rooms" / "validation_000000_01.mp4").write_bytes(b"cut off")
    synthesize(tmp_path, SETTINGS, num_scenes=2)
    assert contents(tmp_path) == contents(made)


def test_other_settings_and_other_folders_are_refused(made, tmp_path):
    with pytest.raises(ValueError, match=r"other settings: size 128 \(now 256\)"):
        synthesize(made, DatasetSettings(split="validation", size=256, num_frames=5, walks=2, questions_per_type=1), 1)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no data set of ours"):
        synthesize(tmp_path, SETTINGS, 1)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "no split 'dev'"),
        ({"size": 100}, "size is 100"),
        ({"size": 129}, "even number of pixels"),
        ({"num_frames": 1}, "num_frames is 1"),
        ({"walks": 0}, "walks is 0"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        DatasetSettings(**options)


@pytest.mark.parametrize("counts", [{"num_scenes": 0}, {"num_scenes": 1, "workers": 0}])
def test_counts_out_of_range(tmp_path, counts):
    with pytest.raises(ValueError, match="must be at least 1"):
        synthesize(tmp_path / "out", SETTINGS, **counts)
    assert not (tmp_path / "out").exists()


def test_answers_name_the_objects_that_they_come_from(made):
    rows = [json.loads(line) for line in (made / "validation.jsonl").read_text().splitlines()]
    for row in rows:
        names = np.load(made / "arrays" / f"{row['scene_name']}.npz")["names"]
        for instance in row["object_ids"]:
            assert str(names[instance - 1]) in row["question"] or row["question_type"] == "obj_appearance_order"
