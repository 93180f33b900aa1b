"""Rooms made when they are asked for: how many, where they are kept, several processes, baselines on them."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from evaluation_data import question_records, write_jsonl
from filelock import FileLock

from vega3d.evaluation.benchmarks import (
    TRAIN_ROOMS,
    RoomsBenchmark,
    check_baseline,
    default_cache,
    load_benchmark,
    load_rooms,
    rooms_for_limit,
    training_questions,
)
from vega3d.evaluation.metrics import QUESTION_TYPES
from vega3d.evaluation.vsibench import AnnotatedQuestion, take_balanced
from vega3d.rooms.dataset import DatasetSettings
from vega3d.rooms.dataset.dataset import FORMAT

SMALL = RoomsBenchmark(DatasetSettings("test", size=128, num_frames=2, questions_per_type=1), num_rooms=2)
LOAD = """
import sys
from pathlib import Path
from test_rooms_benchmark import SMALL
from vega3d.evaluation.benchmarks import load_rooms
for record in load_rooms(SMALL, limit=1, cache=Path(sys.argv[1])):
    print(record.id, record.answer, record.visual)
"""


def every_type(per_room: int = 1, rare: int = 1) -> Sequence[AnnotatedQuestion]:
    """Questions by room, `per_room` of each type, but of the last type in every `rare`-th room only."""
    return [
        AnnotatedQuestion(
            None,
            "?",
            ("left", "right"),
            id=f"{room}-{name}-{number}",
            dataset="rooms",
            scene=f"{room:04d}",
            question_type=name,
        )
        for room in range(100)
        for name in QUESTION_TYPES
        for number in range(per_room if name != QUESTION_TYPES[-1] or room % rare == rare - 1 else 0)
    ]


@pytest.mark.parametrize(
    ("limit", "per_room", "rare", "rooms"),
    [
        (1, 1, 1, [2]),
        (22, 1, 1, [2]),
        (23, 1, 1, [2, 4]),
        (44, 2, 1, [2]),
        (11, 1, 5, [2, 4, 8]),
        (33, 2, 3, [2, 4, 8]),
        (600, 2, 1, [2, 4, 8, 16, 32]),
        (10_000, 1, 1, [2, 4, 8, 16, 32, 64, 100]),
        (None, 1, 1, [100]),
    ],
)
def test_no_more_rooms_than_the_limit_needs(limit, per_room, rare, rooms):
    made: list[int] = []
    questions = every_type(per_room, rare)

    def first_rooms(count: int) -> list[AnnotatedQuestion]:
        made.append(count)
        return [record for record in questions if int(record.scene) < count]

    records = rooms_for_limit(first_rooms, 100, limit)
    assert made == rooms and len({record.scene for record in records}) == rooms[-1]
    if limit is not None and limit < 1000:
        counts = [record.question_type for record in take_balanced(records, limit)]
        assert max(map(counts.count, QUESTION_TYPES)) - min(map(counts.count, QUESTION_TYPES)) <= 1


def test_few_rooms_and_no_limit():
    questions = every_type()
    assert rooms_for_limit(lambda count: questions[:count], 1, 5) == questions[:1]
    with pytest.raises(ValueError, match="limit is 0"):
        rooms_for_limit(lambda _: [], 4, 0)


def test_what_the_cache_is_called():
    assert RoomsBenchmark().num_rooms == 100 and RoomsBenchmark().settings == DatasetSettings("test", 192, 17, 1, 2)
    name = RoomsBenchmark().folder_name
    assert name.startswith(f"format={FORMAT}-split=test-size=192-num_frames=17-walks=1-questions_per_type=2")
    assert TRAIN_ROOMS.folder_name != name and TRAIN_ROOMS.num_rooms == 40
    from huggingface_hub import constants

    assert default_cache() == Path(constants.HF_HOME) / "vega3d" / "rooms"


def test_two_processes_share_a_cache_and_it_grows(tmp_path):
    """This process and another want the same rooms and both get them; what is there already changes no result."""
    command = [sys.executable, "-c", LOAD, str(tmp_path)]
    pipes: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": Path(__file__).parent}
    with FileLock(tmp_path / f"{SMALL.folder_name}.lock"):
        other = subprocess.Popen(command, **pipes)
        assert other.stderr is not None
        assert any("Another process is making rooms" in line for line in other.stderr)
        assert not (tmp_path / SMALL.folder_name).exists()
    ours = load_rooms(SMALL, limit=1, cache=tmp_path)
    theirs = other.communicate(timeout=300)[0].splitlines()
    assert other.returncode == 0
    assert theirs == [f"{record.id} {record.answer} {record.visual}" for record in ours]
    folder = tmp_path / SMALL.folder_name
    assert len(list((folder / "scenes").iterdir())) == 2 and not list(folder.rglob(".*.partial"))

    made = {path: path.stat().st_mtime_ns for path in (folder / "rooms").iterdir()}
    first = RoomsBenchmark(SMALL.settings, num_rooms=1)
    progress: list[tuple[int, int]] = []
    one = load_rooms(first, cache=tmp_path, on_progress=lambda done, wanted: progress.append((done, wanted)))
    two = load_rooms(SMALL, cache=tmp_path)
    assert progress == [(1, 1)] and {path: path.stat().st_mtime_ns for path in made} == made
    assert len({record.scene for record in one}) == 1 and two[: len(one)] == one and len(two) > len(one)
    assert two == ours
    assert all(record.visual is not None and record.visual.is_file() for record in two)


def test_arguments_that_do_not_fit_each_other_are_refused(tmp_path):
    for arguments, message in (
        ({"name": "colours"}, "benchmark is 'colours', but must be rooms or vsibench"),
        ({"name": "vsibench"}, "Give the folder of your local download with --data"),
        ({"name": "rooms", "table": "a.jsonl"}, "--table and --allow-missing are for a folder"),
        ({"name": "rooms", "allow_missing": True}, "--table and --allow-missing are for a folder"),
        ({"name": "rooms", "data": tmp_path / "absent"}, "no folder"),
    ):
        with pytest.raises(ValueError, match=message):
            load_benchmark(**arguments)
    for baseline, model, table, message in (
        ("luck", None, None, "--baseline is 'luck', but must be chance, most-frequent, blind"),
        (None, None, None, "Give a model"),
        ("blind", None, None, "Give a model"),
        ("chance", None, tmp_path, "only read by --baseline most-frequent"),
    ):
        with pytest.raises(ValueError, match=message):
            check_baseline(baseline, model, table)

    check_baseline("chance", "vega3d-tiny", None)


def test_training_questions_come_from_a_table_without_videos(tmp_path):
    rows = [
        {
            "id": record.id,
            "dataset": record.dataset,
            "scene_name": record.scene,
            "question_type": record.question_type,
            "question": record.question,
            "ground_truth": record.answer,
            "options": record.lettered,
        }
        for record in question_records()
    ]
    table = write_jsonl(tmp_path / "train.jsonl", rows)

    assert training_questions(None, table) == training_questions(tmp_path, table) == question_records()
    with pytest.raises(ValueError, match="with --train-table"):
        training_questions(tmp_path, None)
    with pytest.raises(ValueError, match="no training table"):
        training_questions(tmp_path, tmp_path / "absent.jsonl")
