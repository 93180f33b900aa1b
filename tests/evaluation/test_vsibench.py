"""Loading VSI-Bench from a local download, its prompts, balanced subsets."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from evaluation_data import BARE_OPTIONS, OPTIONS, download, question_records, question_rows, write_jsonl

from vega3d.evaluation.metrics import QUESTION_TYPES
from vega3d.evaluation.vsibench import AnnotatedQuestion, load_vsibench, records_from_rows, take_balanced
from vega3d.questions import PRE_PROMPT, SpatialQuestion


def test_a_download_loads(tmp_path):
    rows = question_rows()
    records, missing = load_vsibench(download(tmp_path, rows))
    assert missing == []
    assert [record.id for record in records] == [str(row["id"]) for row in rows]

    first = records[0]
    assert first.visual == tmp_path / "arkitscenes" / "scene0000.mp4"
    assert first.options == BARE_OPTIONS and first.lettered == OPTIONS and first.letters == "ABC"

    asked = rows[0]["question"], "Options:", *OPTIONS
    assert first.prompt.splitlines()[1:-1] == [*asked]
    assert not first.is_numeric and records[9].is_numeric
    assert records[9].options == ()


def test_parquet_and_datasets_give_the_same_questions(tmp_path):
    pyarrow, datasets = pytest.importorskip("pyarrow"), pytest.importorskip("datasets")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{**row, "pruned": False} for row in question_rows()]
    records, _ = load_vsibench(download(tmp_path, rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "test_debiased.parquet")
    assert load_vsibench(tmp_path, "test_debiased.parquet")[0] == records
    assert records_from_rows(datasets.Dataset.from_list(rows), tmp_path) == records


def write_parquet(path, rows):
    datasets = pytest.importorskip("datasets")
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows).to_parquet(str(path))
    return path


def test_a_parquet_file_may_stand_for_its_folder(tmp_path):
    rows = question_rows()
    records, _ = load_vsibench(download(tmp_path, rows))
    table = write_parquet(tmp_path / "validation.parquet", rows)
    assert load_vsibench(table) == (records, [])
    with pytest.raises(ValueError, match=r"is a table, and --table names another one, test\.jsonl"):
        load_vsibench(table, "test.jsonl")


def test_the_only_table_is_found(tmp_path):
    rows = question_rows()
    records, _ = load_vsibench(download(tmp_path, rows))
    (tmp_path / "test.jsonl").unlink()

    write_parquet(tmp_path / "validation.parquet", rows)

    assert load_vsibench(tmp_path)[0] == records

    write_parquet(tmp_path / "train.parquet", rows[:3])
    with pytest.raises(
        ValueError, match=r"several tables of questions: train\.parquet, validation\.parquet\. .*--table"
    ):
        load_vsibench(tmp_path)
    assert len(load_vsibench(tmp_path, "train.parquet")[0]) == 3


def test_a_folder_of_datasets_is_read(tmp_path, monkeypatch):
    """Shards below `data/`, as `push_to_hub` lays them out, beside the videos; no copy is made of them."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "VSI"
    folder.mkdir()
    rows = question_rows()
    records, _ = load_vsibench(download(folder, rows))
    (folder / "test.jsonl").unlink()
    write_parquet(folder / "data" / "test-00000-of-00002.parquet", rows[:25])
    write_parquet(folder / "data" / "test-00001-of-00002.parquet", rows[25:])
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows[:4])
    assert load_vsibench(folder)[0] == records
    assert len(load_vsibench(folder, "train")[0]) == 4
    with pytest.raises(ValueError, match="no split 'pruned', only "):
        load_vsibench(folder, "pruned")
    for path in (folder / "data").glob("test-*"):
        path.unlink()
    assert len(load_vsibench(folder)[0]) == 4
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    (folder / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="cannot be read as a data set"):
        load_vsibench(folder)


def marked_row(**changes) -> dict:
    row = {**question_rows()[0], "question_type": "localisation_by_choice", "frame": 2}
    return {**row, "marks": [[0, 0, 5, 5], [5, 5, 9, 9], [1, 2, 3, 4]], **changes}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_marks_and_pruned_are_read(tmp_path, suffix):
    """All types in one table, where the columns of most questions are empty."""
    plain = [{**row, "frame": None, "marks": [], "pruned": row["id"] == 2} for row in question_rows()[1:4]]
    rows = [{**marked_row(), "pruned": False}, *plain]
    download(tmp_path, rows)
    if suffix == "parquet":
        (tmp_path / "test.jsonl").unlink()
        write_parquet(tmp_path / "test.parquet", rows)

    records, _ = load_vsibench(tmp_path)

    assert records[0].frame == 2 and records[0].marks == ((0, 0, 5, 5), (5, 5, 9, 9), (1, 2, 3, 4))
    assert all(record.frame is None and record.marks == () for record in records[1:])
    assert [record.pruned for record in records] == [False, False, True, False]
    assert {record.pruned for record in question_records()} == {None}


@pytest.mark.parametrize(
    "change",
    [
        {"frame": None},
        {"frame": -1},
        {"marks": []},
        {"marks": None},
        {"marks": [[0, 0, 5, 5]]},
        {"marks": [[0, 0, 5, 5], [5, 5, 5, 9], [1, 2, 3, 4]]},
        {"marks": [[0, 0, 5], [5, 5, 9, 9], [1, 2, 3, 4]]},
    ],
)
def test_broken_marks_are_refused(tmp_path, change):
    with pytest.raises(ValueError, match=r"row 1, has the frame .* for each of its 3 options"):
        load_vsibench(download(tmp_path, [marked_row(**change)]))


def test_a_variant_is_another_file(tmp_path):
    rows = question_rows()
    download(tmp_path, rows)
    variant = write_jsonl(tmp_path / "test_pruned.jsonl", rows[::3])
    for table in ("test_pruned.jsonl", variant):
        assert [record.id for record in load_vsibench(tmp_path, table)[0]] == [str(row["id"]) for row in rows[::3]]
    with pytest.raises(ValueError, match=r"no table of questions; looked for absent\.jsonl, .*absent\.jsonl"):
        load_vsibench(tmp_path, "absent.jsonl")


def test_missing_videos_are_listed_and_left_out_only_if_allowed(tmp_path):
    download(tmp_path, question_rows(), skip=("scene0003", "scene0000"))
    with pytest.raises(ValueError, match=r"lacks 2 videos: arkitscenes/scene0000\.mp4, scannet/scene0003\.mp4"):
        load_vsibench(tmp_path)
    records, missing = load_vsibench(tmp_path, allow_missing=True)
    assert missing == ["arkitscenes/scene0000.mp4", "scannet/scene0003.mp4"]
    assert {record.scene for record in records} == {"scene0001", "scene0002", "scene0004", "scene0005"}


def test_without_any_video_there_is_nothing_to_allow(tmp_path):
    write_jsonl(tmp_path / "test.jsonl", question_rows())
    with pytest.raises(ValueError, match="none of the 6 videos"):
        load_vsibench(tmp_path, allow_missing=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": " "}, "row 2, has an empty question"),
        ({"question_type": "colour"}, "row 2, has the question type 'colour', but the types are"),
        ({"ground_truth": None}, "row 2, lacks ground_truth"),
        ({"ground_truth": "D"}, "the answer 'D', but its options are A, B, C"),
        ({"ground_truth": "AB"}, "the answer 'AB'"),
        ({"options": None}, r"the options \[\], but needs two or more"),
        ({"options": ["left", "right"]}, "written 'A. ...', 'B. ...'"),
        ({"options": ["A.left", "B.right"]}, "written 'A. ...', 'B. ...'"),
        ({"id": 0}, "the id 0, which an earlier row has too"),
        ({"question_type": "object_counting", "ground_truth": "many"}, "is a number from 0 up"),
        ({"question_type": "object_counting", "ground_truth": "nan"}, "is a number from 0 up"),
        ({"question_type": "object_counting", "ground_truth": "-1"}, "is a number from 0 up"),
    ],
)
def test_broken_rows_are_refused(tmp_path, change, message):
    rows = question_rows()[:3]
    rows[1] |= change
    with pytest.raises(ValueError, match=message):
        load_vsibench(download(tmp_path, rows))


def test_broken_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        load_vsibench(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"looked for .*test\.jsonl, .*test\.parquet"):
        load_vsibench(tmp_path)

    (tmp_path / "test.jsonl").write_text(json.dumps(question_rows()[0]) + "\n{'id'")
    with pytest.raises(ValueError, match="line 2, is no JSON"):
        load_vsibench(tmp_path)

    (tmp_path / "test.jsonl").write_text("[1]\n")
    with pytest.raises(ValueError, match="line 1, is a list"):
        load_vsibench(tmp_path)

    (tmp_path / "test.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no question"):
        load_vsibench(tmp_path)

    (tmp_path / "test.csv").touch()
    with pytest.raises(ValueError, match=r"test\.csv is no table"):
        load_vsibench(tmp_path, "test.csv")


def test_a_choice_needs_options():
    place = {"id": "7", "dataset": "scannet", "scene": "scene0000"}
    with pytest.raises(ValueError, match="'route_planning' has options, but 7 has none"):
        AnnotatedQuestion(None, "Where to?", question_type="route_planning", **place)
    with pytest.raises(ValueError, match="no question type 'colour'"):
        AnnotatedQuestion(None, "Which colour?", question_type="colour", **place)


def test_subsets_are_balanced_over_types():
    records = question_records(scenes=8)
    records = [record for record in records if record.question_type != "route_planning" or record.scene == "scene0000"]
    chosen = take_balanced(records, 37)

    counts = Counter(record.question_type for record in chosen)

    assert len(chosen) == 37 and counts.pop("route_planning") == 1
    assert set(counts.values()) == {4} and set(counts) < set(QUESTION_TYPES)
    assert chosen == [record for record in records if record in chosen]
    assert chosen == take_balanced(records, 37) != take_balanced(records, 37, seed=1)
    assert take_balanced(records, 10_000) == records
    assert len({record.scene for record in take_balanced(records, 20)}) > 2
    with pytest.raises(ValueError, match="limit is 0"):
        take_balanced(records, 0)


def test_a_cut_off_parquet_file_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        load_vsibench(tmp_path, "cut.parquet")


def test_a_question_is_told_by_its_prompt():
    asked = [
        SpatialQuestion("room", record.question, record.options, is_numeric=record.is_numeric)
        for record in question_records(1)
    ]
    asked += [
        SpatialQuestion("room", text)
        for text in ("Where is the bed?", "Options:\nA. left", f"{PRE_PROMPT}\nDescribe the room.")
    ]
    asked += [SpatialQuestion("room", "Which is larger?", ("bed", "lamp"), is_image=True)]

    for question in asked:
        assert SpatialQuestion.of_prompt("room", question.prompt, question.is_image) == replace(
            question, options=list(question.options) or ()
        )
