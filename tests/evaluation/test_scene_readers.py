"""Questions about scans: own files and published rows, what is missing, scans and boxes."""

import json

import numpy as np
import pytest
from scene_data import (
    CHAIR,
    DOOR,
    box_of,
    boxes_of,
    download,
    multi3drefer,
    published_files,
    scan_names,
    write,
    write_scan,
)

from vega3d.evaluation.rules import SCENE_RULES
from vega3d.evaluation.scenes.readers import TABLES, load_scenes
from vega3d.evaluation.scenes.scans import read_proposals, scan_objects
from vega3d.geometry import rotation_about_z
from vega3d.scannet import axis_alignment


def load(benchmark, folder, **options):
    return load_scenes(benchmark, folder, needs_scans=False, **options)[0]


@pytest.mark.parametrize("benchmark", TABLES)
def test_own_files_and_published_rows_are_the_same_questions(benchmark, tmp_path):
    own = load(benchmark, download(tmp_path / "own"))
    published = load(benchmark, published_files(tmp_path / "published"))
    assert [record.identity for record in own] == [record.identity for record in published]
    assert [record.kind for record in own] == [record.kind for record in published]
    assert {record.kind for record in own} <= set(SCENE_RULES[benchmark].types)
    assert {record.scene for record in own} == {scan[:9] for scan in scan_names(3)}


def test_what_records_say(tmp_path):
    folder = download(tmp_path)
    first = load("scanrefer", folder)[0]
    assert first.expression == "This is the chair of room 0. it stands near the door."
    assert first.targets.tolist() == [box_of(0, CHAIR)] and first.boxes.shape == (4, 6)
    assert [record.kind for record in load("scanrefer", folder)[:4]] == ["multiple"] * 3 + ["unique"]
    assert [len(record.targets) for record in load("multi3drefer", folder)[:3]] == [2, 1, 0]
    chair, other, door = load("scan2cap", folder)[:3]
    assert len(chair.answers) == 2 and chair.box.tolist() == chair.target.tolist() == box_of(0, CHAIR)
    assert other.box is None  # no proposal is of it
    assert door.box is None and door.target.tolist() == box_of(0, DOOR)  # its proposal overlaps it by one third
    assert load("scan2cap", folder, proposals="none")[1].box.tolist() == other.target.tolist()
    assert load("scanrefer", folder, proposals="none")[0].boxes.shape == (0, 6)
    assert load("scanrefer", folder, proposals="objects")[0].boxes.tolist() == [box_of(0, str(n)) for n in range(4)]
    question = load("sqa3d", folder)[1]
    assert (question.answers, question.situation) == (("yes",), "I am sitting at the desk.")


def test_missing_data_is_named_and_left_out_only_where_it_may(tmp_path):
    folder = download(tmp_path)
    rows = json.loads((folder / "ScanRefer_filtered_val.json").read_text())
    rows[1]["object_id"] = "77"
    write(folder / "ScanRefer_filtered_val.json", rows)
    boxes = json.loads((folder / "proposals.json").read_text())
    del boxes["scannet/scene0002_00"]
    write(folder / "proposals.json", boxes)
    with pytest.raises(ValueError, match=r"scene0000_00: no object 77 \(questions 1\); scene0002_00: no proposals"):
        load("scanrefer", folder)
    (folder / "scans" / "scene0000_00").mkdir(parents=True)
    records, missing = load_scenes("scanrefer", folder, allow_missing=True)
    assert [record.id for record in records] == ["0", "2", "3"]
    assert missing == [
        "scene0000_00: no object 77 (questions 1)",
        "scene0001_00: no scan (questions 4, 5, 6, 7)",
        "scene0002_00: no proposals (questions 8, 9, 10, 11)",
    ]
    with pytest.raises(ValueError, match=r"No question of multi3drefer_val.json is left"):
        write(folder / "proposals.json", {"scene0009_00": [box_of(0, DOOR)]})
        load("multi3drefer", folder, allow_missing=True)


def test_a_scan_without_objects_has_no_true_boxes_to_choose_from(tmp_path):
    data = download(tmp_path, scans=2)
    write(data / "objects.json", {**boxes_of(2), "scannet/scene0000_00": []})
    rows = [row for row in multi3drefer(2) if not row["object_ids"]]
    write(data / "multi3drefer_val.json", rows)
    with pytest.raises(ValueError, match="scene0000_00: no boxes of its objects"):
        load_scenes("multi3drefer", data, proposals="objects", needs_scans=False)


def test_the_class_of_an_object_is_that_of_its_first_row(tmp_path):
    folder = download(tmp_path, scans=1)
    changed(folder, "ScanRefer_filtered_val.json", lambda rows: rows[1].update(object_name="door"))
    assert [record.kind for record in load("scanrefer", folder)] == ["multiple", "unique", "multiple", "unique"]


def test_the_limit_is_balanced_over_the_kinds(tmp_path):
    records = load("scanrefer", download(tmp_path), limit=4)
    assert sorted(record.kind for record in records) == ["multiple", "multiple", "unique", "unique"]


def test_answers_of_one_question_in_rows_of_training_are_one_question(tmp_path):
    folder = published_files(tmp_path)
    rows = json.loads((folder / "scanqa_val_llava_style.json").read_text())[:1]
    del rows[0]["metadata"]["answers"]
    second = json.loads(json.dumps(rows[0]))
    second["id"], second["conversations"][1]["value"] = rows[0]["id"][:-1] + "1", "a stool"
    write(folder / "scanqa_val_llava_style.json", [rows[0], second])
    [record] = load("scanqa", folder)
    assert record.answers == ("chair number 0", "a stool")


def changed(folder, name, edit):
    values = json.loads((folder / name).read_text())
    edit(values)
    write(folder / name, values)


BROKEN = [
    ("scanrefer", "ScanRefer_filtered_val.json", lambda rows: rows[2].pop("description"), "row 3, lacks description"),
    ("scanrefer", "ScanRefer_filtered_val.json", lambda rows: rows.clear(), "must hold a list of questions"),
    ("scanrefer", "proposals.json", lambda boxes: boxes.update(scene0009_00=[]), "has no box of scene0009_00"),
    ("scanrefer", "proposals.json", lambda boxes: boxes.update(s_0=[[0, 0, 0, 1, -1, 1]]), "s_0: box 0 is .* size"),
    ("scanrefer", "proposals.json", lambda boxes: boxes.update(s_0=[[0, 0, 0, 1, 1, 1, 0.5]]), r"but got \[1, 7\]"),
    ("scanrefer", "objects.json", lambda boxes: boxes.update(s_0=[["a"] * 6]), "boxes are numbers"),
    ("multi3drefer", "multi3drefer_val.json", lambda rows: rows[0].update(eval_type="two"), "kind 'two', but"),
    ("scanqa", "ScanQA_v1.0_val.json", lambda rows: rows[0].update(answers=[]), r"has the answers \(\)"),
    (
        "sqa3d",
        "v1_balanced_sqa_annotations_test_scannetv2.json",
        lambda values: values["annotations"][0].update(question_id=99),
        "answers question 99, which is not in",
    ),
]


@pytest.mark.parametrize("benchmark, name, edit, message", BROKEN)
def test_broken_files_are_refused(benchmark, name, edit, message, tmp_path):
    folder = download(tmp_path)
    changed(folder, name, edit)
    with pytest.raises(ValueError, match=message):
        load(benchmark, folder)


def test_broken_published_rows_are_refused(tmp_path):
    folder = published_files(tmp_path)
    changed(folder, "scanrefer_val_llava_style.json", lambda rows: rows[1].update(id=0))
    with pytest.raises(ValueError, match="row 2 has the id 0, which an earlier row has too"):
        load("scanrefer", folder)
    changed(folder, "scan2cap_val_llava_style.json", lambda rows: rows[0].pop("gt_box"))
    with pytest.raises(ValueError, match="row 1 cannot be read: KeyError"):
        load("scan2cap", folder)


def test_which_file_is_meant(tmp_path):
    folder = download(tmp_path)
    published_files(tmp_path)
    with pytest.raises(ValueError, match=r"several files of questions: ScanRefer_filtered_val.json, scanrefer_val_"):
        load("scanrefer", folder)
    with pytest.raises(ValueError, match=r"proposals.json and scannet_val_pred_box.json. Leave one"):
        load("scanrefer", folder, table="scanrefer_val_llava_style.json")
    (folder / "proposals.json").unlink()
    assert load("scanrefer", folder, table="scanrefer_val_llava_style.json")
    (folder / "scannet_val_pred_box.json").unlink()
    with pytest.raises(ValueError, match=r"has no proposals .*--proposals none"):
        load("scanrefer", folder, table="scanrefer_val_llava_style.json")
    with pytest.raises(ValueError, match="scanqa needs no proposals"):
        load("scanqa", folder, table="ScanQA_v1.0_val.json", proposals="none")


def test_objects_of_a_scan_are_in_the_aligned_world(tmp_path):
    alignment = np.eye(4)
    alignment[:3, :3], alignment[:3, 3] = rotation_about_z(np.pi / 2), (10, 0, 1)
    scan = write_scan(tmp_path / "scans" / "scene0000_00", alignment)
    np.testing.assert_allclose(axis_alignment(scan), alignment)
    objects = scan_objects(scan)
    np.testing.assert_allclose(objects["0"], [9, 0.5, 2.5, 2, 1, 3], atol=1e-6)  # x, y become 10 - y, x
    np.testing.assert_allclose(objects["4"], [5, 5.5, 7, 0, 1, 2], atol=1e-6)
    (scan / "scene0000_00.txt").write_text("colorHeight = 968\n")
    np.testing.assert_array_equal(axis_alignment(scan), np.eye(4))
    (scan / "scene0000_00.txt").write_text("axisAlignment = " + "2 " * 16)
    with pytest.raises(ValueError, match="is not rigid"):
        axis_alignment(scan)
    (scan / "scene0000_00.txt").unlink()
    with pytest.raises(ValueError, match="with the axis alignment of the scan, cannot be read"):
        scan_objects(scan)


def test_proposals_of_an_archive(tmp_path):
    np.savez(tmp_path / "proposals.npz", scene0000_00=np.array([box_of(0, CHAIR)]))
    assert read_proposals(tmp_path / "proposals.npz")["scene0000_00"].tolist() == [box_of(0, CHAIR)]
