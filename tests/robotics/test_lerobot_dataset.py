"""Data sets in the LeRobot layout: written, gone on with after a kill, and read."""

import io
import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robotics.demonstration_data import (
    CAMERAS,
    DARKER,
    FPS,
    GREY,
    SIZE,
    TASKS,
    TONE,
    die_while_writing,
    toy_episode,
    write_toy,
)
from vega3d.robotics.demonstrations import check_demonstrations
from vega3d.robotics.episode_writer import EpisodeWriter
from vega3d.robotics.lerobot_dataset import LeRobotFolder


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_toy(tmp_path_factory.mktemp("data") / "toy")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_is_written_is_read(written):
    data = LeRobotFolder(written)

    assert (len(data), data.lengths, data.fps, data.cameras) == (3, [12, 12, 12], FPS, CAMERAS)
    assert check_demonstrations(data) == [0, 1, 2]
    for number in range(3):
        episode = toy_episode(number)
        states, actions = data.numbers(number)
        np.testing.assert_array_equal(states, episode["states"].astype(np.float32))
        np.testing.assert_array_equal(actions, episode["actions"].astype(np.float32))
        assert data.task(number) == episode["task"] == TASKS[number % 2]


def test_frames_are_those_of_their_step(written):
    data = LeRobotFolder(written)

    for camera, brighter in zip(CAMERAS, (0, DARKER), strict=True):
        frames = data.frames(1, camera, [11, 0, 5, 5])
        assert frames.shape == (4, *SIZE, 3)
        grey = frames.mean((1, 2, 3)) - brighter - TONE
        np.testing.assert_allclose(grey, np.array([11, 0, 5, 5]) * GREY, atol=2)


def test_several_episodes_in_one_file_are_read_by_their_times(written, tmp_path):
    """As lerobot itself writes them: the table and the videos of episode 1 after those of episode 0."""
    import pyarrow
    import pyarrow.parquet as parquet

    from vega3d.video_files import write_video

    joint = tmp_path / "joint"
    shutil.copytree(written, joint)
    tables = [joint / f"data/chunk-000/file-00{n}.parquet" for n in (0, 1, 2)]
    parquet.write_table(pyarrow.concat_tables(map(parquet.read_table, tables[::-1])), tables[0])
    videos = [toy_episode(n)["frames"] for n in range(3)]
    for camera in CAMERAS:
        path = joint / f"videos/observation.images.{camera}/chunk-000/file-000.mp4"
        write_video(path, np.concatenate([video[camera] for video in videos]), FPS)
    for number in (1, 2):
        path = joint / f"meta/episodes/chunk-000/file-00{number}.parquet"
        [row] = parquet.read_table(path).to_pylist()
        row["data/file_index"] = 0
        for camera in CAMERAS:
            key = f"videos/observation.images.{camera}"
            row |= {f"{key}/file_index": 0, f"{key}/from_timestamp": number * 1.2}
        parquet.write_table(pyarrow.Table.from_pylist([row]), path)

    one, several = LeRobotFolder(written), LeRobotFolder(joint)

    for number in range(3):
        np.testing.assert_array_equal(several.numbers(number)[1], one.numbers(number)[1])
        grey = several.frames(number, "wrist", [3, 7]).mean((1, 2, 3)) - DARKER - number * TONE
        np.testing.assert_allclose(grey, [3 * GREY, 7 * GREY], atol=2)


def test_images_in_the_table_are_read(written, tmp_path):
    import pyarrow
    import pyarrow.parquet as parquet

    folder = tmp_path / "images"
    shutil.copytree(written, folder)
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"]["observation.images.front"]["dtype"] = "image"
    path.write_text(json.dumps(info))
    for number in range(3):
        path = folder / f"data/chunk-000/file-00{number}.parquet"
        cells = []
        for frame in toy_episode(number)["frames"]["front"]:
            file = io.BytesIO()
            Image.fromarray(frame).save(file, "png")
            cells.append({"bytes": file.getvalue(), "path": None})
        table = parquet.read_table(path)
        parquet.write_table(table.append_column("observation.images.front", pyarrow.array(cells)), path)

    frames = LeRobotFolder(folder).frames(1, "front", [4, 1])

    np.testing.assert_array_equal(frames, toy_episode(1)["frames"]["front"][[4, 1]])


def test_the_tables_are_those_that_lerobot_reads(written):
    import pandas

    tasks = pandas.read_parquet(written / "meta/tasks.parquet")
    assert tasks.index.tolist() == list(TASKS) and tasks["task_index"].tolist() == [0, 1]
    info, stats = (json.loads((written / f"meta/{name}.json").read_text()) for name in ("info", "stats"))
    assert info["total_frames"] == 36 and info["splits"] == {"train": "0:3"}
    assert set(stats) == set(info["features"])
    actions = np.concatenate([toy_episode(number)["actions"] for number in range(3)]).astype(np.float32)
    for name in ("mean", "std", "min", "max"):
        np.testing.assert_allclose(stats["action"][name], getattr(actions, name)(0), rtol=1e-5)
    assert np.array(stats["observation.images.front"]["mean"]).shape == (3, 1, 1)


def test_a_killed_writer_goes_on_and_ends_with_the_same_bytes(written, tmp_path):
    killed = tmp_path / "killed"
    process = multiprocessing.get_context("spawn").Process(target=die_while_writing, args=(killed, "meta/episodes"))
    process.start()
    process.join(60)
    assert process.exitcode == 9

    assert check_demonstrations(LeRobotFolder(killed)) == [0, 1]
    write_toy(killed)

    assert contents(killed) == contents(written)


def test_a_writer_refuses_what_is_not_its_own(written, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        EpisodeWriter(tmp_path, FPS)
    with pytest.raises(ValueError, match="fps=10, but 20"):
        EpisodeWriter(written, 20)
    lost = tmp_path / "lost"
    shutil.copytree(written, lost)
    shutil.rmtree(lost / "meta/episodes")
    with pytest.raises(ValueError, match=r"has 3 episodes by meta/info\.json, but 0"):
        EpisodeWriter(lost, FPS)
    assert (lost / "data/chunk-000/file-000.parquet").is_file()
    with EpisodeWriter(written, FPS) as writer:
        with pytest.raises(ValueError, match="Another run"):
            EpisodeWriter(written, FPS)
        with pytest.raises(ValueError, match=r"have .*'action': \[2\]"):
            writer.write(**toy_episode(3, action_size=4))
    before = contents(written)
    assert len(before) == 3 * 4 + 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "  "}, "the task is '  '"),
        ({"actions": np.zeros((12, 2)) * np.nan}, "actions are float64"),
        ({"actions": np.zeros((0, 2)), "states": np.zeros((0, 3))}, "one step at least"),
        ({"states": np.zeros((11, 3))}, "11 states and 12 actions"),
        ({"frames": {}}, "no camera"),
        ({"frames": {"front": np.zeros((12, 33, 48, 3), np.uint8)}}, "H and W even"),
        ({"frames": {"front": np.zeros((12, 32, 48, 3))}}, "float64"),
        ({"frames": {"a/b": np.zeros((12, 32, 48, 3), np.uint8)}}, "without a slash"),
    ],
)
def test_a_writer_refuses_a_bad_episode(tmp_path, change, message):
    with EpisodeWriter(tmp_path / "new", FPS) as writer, pytest.raises(ValueError, match=message):
        writer.write(**toy_episode(0) | change)
    assert [file.name for file in (tmp_path / "new").iterdir()] == []
