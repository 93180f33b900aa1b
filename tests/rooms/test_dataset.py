"""A data set of one room: whole, repeatable, resumable, readable as VSI-Bench."""

import contextlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from vega3d.evaluation.vsibench import load_vsibench
from vega3d.files import only_run
from vega3d.geometry import Box, box_contains, unproject
from vega3d.processing.video_vega3d import read_video
from vega3d.rooms.dataset import DatasetSettings
from vega3d.rooms.dataset.card import TILE, TITLE
from vega3d.rooms.dataset.dataset import PACKED_ANEW, make_walkthroughs, read_record, synthesize
from vega3d.rooms.dataset.files import TABLES, check_record, load_spatial_questions, read_rows, table_schema
from vega3d.rooms.dataset.grounding import load_clip, load_grounding, questions_from_rows

SETTINGS = DatasetSettings(split="validation", size=128, num_frames=5, trajectories=2, questions_per_type=1)


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
    records, missing = load_vsibench(made)
    assert missing == []
    assert len({record.scene for record in records}) == 4
    assert all(record.visual is not None for record in records)
    assert len({record.question_type for record in records}) >= 5


def test_the_result_does_not_depend_on_the_workers(made, tmp_path):
    synthesize(tmp_path, SETTINGS, num_scenes=2, workers=2)
    assert contents(tmp_path) == contents(made)


def test_what_is_missing_is_made_again(made, tmp_path):
    synthesize(tmp_path, SETTINGS, num_scenes=1)
    (tmp_path / "scenes" / "validation_000000_01.json").unlink()
    (tmp_path / "rooms" / "validation_000000_01.mp4").write_bytes(b"cut off")
    (tmp_path / "arrays" / "validation_000000_00.npz").unlink()
    synthesize(tmp_path, SETTINGS, num_scenes=2)
    assert contents(tmp_path) == contents(made)


def test_other_settings_and_other_folders_are_refused(made, tmp_path):
    with pytest.raises(ValueError, match=r"other settings: size was 128 and is 256"):
        synthesize(made, replace(SETTINGS, size=256), 1)
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
        ({"trajectories": 0}, "trajectories is 0"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        DatasetSettings(**options)


@pytest.mark.parametrize("counts", [{"num_scenes": 0}, {"num_scenes": 1, "workers": 0}])
def test_counts_out_of_range(tmp_path, counts):
    with pytest.raises(ValueError, match="at least 1"):
        synthesize(tmp_path / "out", SETTINGS, **counts)
    assert not (tmp_path / "out").exists()


def test_answers_name_the_objects_that_they_come_from(made):
    for row in pyarrow.parquet.read_table(made / "validation.parquet").to_pylist():
        names = np.load(made / "arrays" / f"{row['scene_name']}.npz")["names"]
        for instance in row["object_ids"]:
            is_named = row["question_type"] not in ("obj_appearance_order", "localisation_by_choice")
            assert not is_named or str(names[instance - 1]) in row["question"]


def test_it_loads_through_datasets(made, tmp_path):
    tables = {}
    for table in TABLES:
        tables[table] = datasets.load_dataset(str(made), table, split="validation", cache_dir=str(tmp_path))

    assert len(tables["questions"]) == len(load_vsibench(made)[0])
    assert len(tables["captions"]) > 20
    assert {"expression", "box", "frames", "object_id"} <= set(tables["expressions"].column_names)

    default = datasets.load_dataset(str(made), split="validation", cache_dir=str(tmp_path))
    assert default.column_names == tables["questions"].column_names

    statistics = json.loads((made / "statistics.json").read_text())
    assert statistics["rows"] == {name: len(table) for name, table in tables.items()}
    assert (statistics["rooms"], statistics["walkthroughs"]) == (2, 4)


def test_spatial_questions_ask_as_the_evaluation_does(made):
    questions, records = load_spatial_questions(made, "validation"), load_vsibench(made)[0]
    assert len(questions) == len(records) > 20
    for question, record in zip(questions, records, strict=True):
        assert (question.prompt, question.answer) == (record.prompt, record.answer)
        assert (question.visual, question.frame, question.marks) == (record.visual, record.frame, record.marks)
    with pytest.raises(ValueError, match=r"test\.parquet cannot be read"):
        load_spatial_questions(made, "test")


def test_grounding_reads_back(made):
    exact, found = (load_grounding(made, "validation", source) for source in ("true", "detected"))

    assert {question.task for question in exact} == {"one", "any"}
    assert [question.id for question in exact] == [question.id for question in found]
    for question, detected in zip(exact, found, strict=True):
        chosen = question.boxes[list(question.positives)]
        np.testing.assert_array_equal(
            chosen[chosen[:, 0].argsort()], question.targets[question.targets[:, 0].argsort()]
        )
        assert len(detected.positives) <= len(detected.targets) == len(question.positives)
    assert any(len(question.targets) == 0 for question in exact)
    with pytest.raises(ValueError, match=r"no proposals 'mask3d'. Choose one of \['true', 'detected'\]"):
        load_grounding(made, "validation", "mask3d")


def test_boxes_hold_what_the_clip_shows_of_their_objects(made):
    question = next(question for question in load_grounding(made, "validation", "true") if question.task == "one")
    arrays = np.load(made / "arrays" / f"{question.scene}.npz")
    (row,) = (row for row in read_rows(made, "validation", "grounding") if row["id"] == question.id)

    clip = load_clip(made, question.scene)

    assert clip.rgb.shape == (5, 128, 128, 3) and clip.rgb.dtype == np.uint8
    np.testing.assert_array_equal(clip.instance, arrays["instance"])
    seen = 0
    for frame, pose in enumerate(clip.world_from_camera):
        y, x = np.nonzero(clip.instance[frame] == row["object_ids"][0])
        pixels = np.stack([x, y], axis=1) + 0.5
        points = unproject(pixels, clip.depth[frame, y, x], clip.intrinsics, pose)
        assert box_contains(Box(question.targets[0, :3], question.targets[0, 3:]), points, margin=2e-3).all()
        seen += len(points)
    assert seen > 64


def test_walkthroughs_in_memory_are_those_of_the_folder(made):
    (walkthrough,) = make_walkthroughs(1, SETTINGS, trajectories=[1])

    record = read_record(made, walkthrough.name)
    assert walkthrough.record == record
    clip = load_clip(made, walkthrough.name)
    np.testing.assert_allclose(clip.depth, walkthrough.clip.depth, atol=6e-4)
    assert np.abs(clip.rgb.astype(int) - walkthrough.clip.rgb).mean() < 6  # the video is compressed
    asked = questions_from_rows(record["grounding"], record["proposals"], "true")
    stored = [
        question for question in load_grounding(made, "validation", "true") if question.scene == walkthrough.name
    ]
    for question, other in zip(asked, stored, strict=True):
        assert (question.id, question.expression, question.kind) == (other.id, other.expression, other.kind)
        np.testing.assert_array_equal(question.boxes, other.boxes)


def test_a_data_set_of_an_earlier_format_has_no_anchors(made, tmp_path):
    shutil.copytree(made / "annotations", tmp_path / "annotations")
    path = tmp_path / "annotations" / "validation_grounding.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).drop_columns("anchors"), path)

    before, now = (load_grounding(folder, "validation", "true") for folder in (tmp_path, made))

    assert any(len(question.anchors) for question in now)
    assert all(question.anchors.shape == (0, 6) for question in before)
    assert [question.targets.tolist() for question in before] == [question.targets.tolist() for question in now]


def test_a_data_set_without_grounding_is_named(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    (tmp_path / "copy" / "annotations" / "validation_proposals.parquet").unlink()

    with pytest.raises(ValueError, match=r"validation_proposals\.parquet cannot be read .* `vega3d synthesize"):
        load_grounding(tmp_path / "copy", "validation")
    with pytest.raises(ValueError, match=r"nothing\.mp4"):
        load_clip(made, "nothing")


def test_marks_surround_their_objects_in_the_video(made):
    marked = [record for record in load_vsibench(made)[0] if record.marks]
    assert marked
    for record in marked:
        ids = np.load(made / "arrays" / f"{record.scene}.npz")["instance"][record.frame]
        for left, top, right, bottom in record.marks:
            assert (right - left) * (bottom - top) > 0
            assert (ids[top:bottom, left:right] > 0).any()


def test_tables_alone(made, tmp_path):
    quick = replace(SETTINGS, videos=False)
    table = synthesize(tmp_path, quick, num_scenes=2)
    assert table.read_bytes() == (made / "validation.parquet").read_bytes()
    assert not (tmp_path / "rooms").exists()
    with pytest.raises(ValueError, match="lacks 4 videos"):
        load_spatial_questions(tmp_path, "validation")
    with pytest.raises(ValueError, match="videos=False makes none"):
        synthesize(tmp_path, quick, num_scenes=2, preview=True)


def test_a_preview_shows_each_walkthrough(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    synthesize(tmp_path / "copy", SETTINGS, num_scenes=2, preview=True)
    sheet = np.asarray(Image.open(tmp_path / "copy" / "preview.png"))
    assert sheet.shape == (2 * (TILE + TITLE), 6 * TILE, 3)
    assert all(sheet[row * (TILE + TITLE) + TITLE :][:TILE].std() > 30 for row in range(2))


def test_a_full_disk_leaves_no_broken_file_and_the_run_goes_on(made, tmp_path):
    """Files larger than a limit of the operating system cannot be written, as on a full disk."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "out")]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 3, failed.stderr
    assert "File too large" in failed.stdout
    left = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert not any("partial" in file.name for file in left)
    assert [file.name for file in left if file.suffix == ".mp4"] != []
    synthesize(tmp_path / "out", SETTINGS, num_scenes=2)
    assert contents(tmp_path / "out") == contents(made)


LIMITED = """
import resource, signal, sys
from vega3d.rooms.dataset.dataset import synthesize
from vega3d.rooms.dataset import DatasetSettings
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    synthesize(sys.argv[1], DatasetSettings("validation", 128, 5, 2, 1), 2)
except OSError as error:
    print(error)
    sys.exit(3)
"""


def test_a_damaged_record_is_named(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    record = tmp_path / "copy" / "scenes" / "validation_000001_00.json"
    record.write_text(record.read_text()[:100])
    with pytest.raises(ValueError, match=r"validation_000001_00\.json is damaged .* Delete it"):
        synthesize(tmp_path / "copy", SETTINGS, num_scenes=2)


def test_unseen_rooms_need_their_own_furniture(tmp_path):
    unseen = replace(SETTINGS, split="test_unseen")
    with pytest.raises(ValueError, match=r"93 of 93 objects .* are not kept for test_unseen\. Make"):
        synthesize(tmp_path / "out", unseen, num_scenes=1)
    with pytest.raises(ValueError, match=r"nothing\.npz is no furniture pack"):
        synthesize(tmp_path / "out", unseen, num_scenes=1, furniture=tmp_path / "nothing.npz")
    assert not (tmp_path / "out").exists()


@pytest.mark.stress
@pytest.mark.parametrize("seconds", [4, 6, 8, 10, 12])
def test_a_killed_run_goes_on(made, tmp_path, seconds):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "out")]
    process = subprocess.Popen(command)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.kill()
    process.wait()
    synthesize(tmp_path / "out", SETTINGS, num_scenes=2)
    assert contents(tmp_path / "out") == contents(made)


KILLED = """
import sys
from vega3d.rooms.dataset.dataset import synthesize
from vega3d.rooms.dataset import DatasetSettings
synthesize(sys.argv[1], DatasetSettings("validation", 128, 5, 2, 1), 2)
"""


def test_files_that_are_not_whole_are_made_again(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    names = ("rooms/validation_000000_00.mp4", "arrays/validation_000000_01.npz", "rooms/validation_000001_00.mp4")
    for name, share in zip(names, (0.0, 0.5, 0.9), strict=True):
        file = tmp_path / "copy" / name
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])

    synthesize(tmp_path / "copy", SETTINGS, num_scenes=2)

    assert contents(tmp_path / "copy") == contents(made)


def test_the_second_run_of_a_folder_is_told_so(tmp_path):
    (tmp_path / "out").mkdir()

    with only_run(tmp_path / "out"), pytest.raises(ValueError, match=r"Another run is writing .*out"):
        synthesize(tmp_path / "out", SETTINGS, num_scenes=1)

    assert not list((tmp_path / "out").iterdir())


JSONS = ["", "[]", "null", "5", "[" * 100_000, '{"questions": null}', "{}"]


@pytest.mark.parametrize("text", JSONS, ids=lambda text: text[:20])
def test_settings_and_records_of_another_kind_are_named(made, tmp_path, text):
    shutil.copytree(made, tmp_path / "copy")
    record = tmp_path / "copy" / "scenes" / "validation_000001_00.json"
    record.write_text(text)
    with pytest.raises(ValueError, match=r"validation_000001_00\.json is damaged .* Delete it"):
        synthesize(tmp_path / "copy", SETTINGS, num_scenes=2)

    (tmp_path / "copy" / "settings.json").write_text(text)
    with pytest.raises(ValueError, match="settings"):
        synthesize(tmp_path / "copy", SETTINGS, num_scenes=2)


def rows_of(made: Path, **changes) -> dict:
    record = json.loads((made / "scenes" / "validation_000000_00.json").read_text())
    return {**record, "questions": [{**record["questions"][0], **changes}]}


@pytest.mark.parametrize(
    "changes", [{"scene_name": "../validation_000000_00"}, {"marks": 5}, {"frame": "x"}, {"options": {}}, {"more": 1}]
)
def test_a_row_of_a_record_that_fits_no_table_is_named(made, changes):
    check_record(rows_of(made), "validation_000000_00")

    with pytest.raises(ValueError, match="questions"):
        check_record(rows_of(made, **changes), "validation_000000_00")


OUTSIDE = ["../outside/{}", "/{}", "a/../../{}", "C:{}", "..\\{}", "x" * 300]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("column", ["dataset", "scene_name"])
def test_a_table_names_no_video_outside_its_folder(made, tmp_path, column, name):
    questions = pyarrow.parquet.read_table(made / "validation.parquet").to_pylist()[:1]
    questions[0][column] = name.format(questions[0][column])
    table = pyarrow.Table.from_pylist(questions, schema=table_schema("questions"))
    pyarrow.parquet.write_table(table, tmp_path / "validation.parquet")

    for load in (load_vsibench, lambda folder: load_spatial_questions(folder, "validation")):
        with pytest.raises(ValueError, match="names no file in"):
            load(tmp_path)


def test_a_folder_of_the_version_before_goes_on(made, tmp_path):
    """Trajectories were called walks, and are so still in the files."""
    shutil.copytree(made, tmp_path / "copy")
    settings = json.loads((made / "settings.json").read_text())
    assert [name for name in settings if name != "furniture_sha256"] == [
        *("format", "split", "size", "num_frames", "walks", "questions_per_type", "videos")
    ]
    (tmp_path / "copy" / "scenes" / "validation_000001_01.json").unlink()

    synthesize(tmp_path / "copy", SETTINGS, num_scenes=2)

    assert contents(tmp_path / "copy") == contents(made)
    with pytest.raises(ValueError, match=r"other settings: trajectories was 2 and is 1"):
        synthesize(made, replace(SETTINGS, trajectories=1), num_scenes=2)


def test_a_data_set_goes_on_with_furniture_that_was_packed_anew(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    file = tmp_path / "copy" / "settings.json"
    settings = json.loads(file.read_text())
    [earlier] = [digest for digest, later in PACKED_ANEW.items() if later == settings["furniture_sha256"]]

    file.write_text(json.dumps({**settings, "furniture_sha256": earlier}))
    synthesize(tmp_path / "copy", SETTINGS, num_scenes=2)

    file.write_text(json.dumps({**settings, "furniture_sha256": "0"}))
    with pytest.raises(ValueError, match="other settings: furniture_sha256"):
        synthesize(tmp_path / "copy", SETTINGS, num_scenes=2)
