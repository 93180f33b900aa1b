"""Demonstrations as plain files, windows of them, their statistics, and what cannot be learned from."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from robotics.demonstration_data import CAMERAS, DARKER, FPS, GREY, SIZE, TONE, toy_episode, write_toy
from vega3d.robotics import statistics
from vega3d.robotics.demonstrations import check_demonstrations
from vega3d.robotics.episode_folder import EpisodeFolder, open_demonstrations
from vega3d.robotics.episode_writer import EpisodeWriter
from vega3d.robotics.lerobot_dataset import LeRobotFolder
from vega3d.robotics.statistics import dataset_statistics
from vega3d.robotics.windows import ActionWindows
from vega3d.video_files import write_video

CHUNK = 5


def write_plain(folder: Path, episodes: int = 2) -> Path:
    """The toy data set as plain files: pictures of one camera, a video of the other, numbers in both forms."""
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps({"fps": FPS, "cameras": list(CAMERAS)}))
    for number in range(episodes):
        toy, place = toy_episode(number), folder / f"episode_{number}"
        (place / "front").mkdir(parents=True)
        for step, frame in enumerate(toy["frames"]["front"]):
            Image.fromarray(frame).save(place / "front" / f"{step}.png")
        write_video(place / "wrist.mp4", toy["frames"]["wrist"], FPS)
        (place / "episode.json").write_text(json.dumps({"task": toy["task"]}))
        numbers = {name: toy[name].astype(np.float32) for name in ("states", "actions")}
        if number % 2:
            columns = {name: values.tolist() for name, values in numbers.items()}
            parquet.write_table(pyarrow.table(columns), place / "numbers.parquet")
        else:
            np.savez(place / "numbers.npz", **numbers)
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[LeRobotFolder, EpisodeFolder]:
    folder = tmp_path_factory.mktemp("data")
    return LeRobotFolder(write_toy(folder / "toy", 2)), EpisodeFolder(write_plain(folder / "plain"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics.constants, "HF_HOME", str(tmp_path / "hf"))


def test_both_layouts_are_the_same_demonstrations(both):
    lerobot, plain = both
    assert type(open_demonstrations(lerobot.folder)) is LeRobotFolder
    assert type(open_demonstrations(plain.folder)) is EpisodeFolder
    assert (plain.cameras, plain.fps, plain.lengths) == (lerobot.cameras, lerobot.fps, lerobot.lengths)
    for number in range(2):
        for ours, theirs in zip(plain.numbers(number), lerobot.numbers(number), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert plain.task(number) == lerobot.task(number)
        for camera in CAMERAS:
            ours, theirs = (one.frames(number, camera, [7, 2]).astype(int) for one in both)
            assert np.abs(ours - theirs).max() <= 3


@pytest.mark.parametrize("layout", [0, 1])
def test_a_window_is_what_is_seen_and_what_comes_next(both, layout):
    windows = ActionWindows(both[layout], CHUNK, frames=3, cameras=["wrist"])
    toy = toy_episode(1)

    first, last = windows[12], windows[23]

    assert len(windows) == 24 and first["id"].endswith("/1/0") and first["task"] == toy["task"]
    assert first["images"]["wrist"].shape == (3, *SIZE, 3) and set(first["images"]) == {"wrist"}
    for row, steps in ((first, [0, 0, 0]), (last, [9, 10, 11])):
        grey = row["images"]["wrist"].mean((1, 2, 3)) - DARKER - TONE
        np.testing.assert_allclose(grey, np.array(steps) * GREY, atol=2)
    np.testing.assert_array_equal(first["actions"], toy["actions"][:CHUNK].astype(np.float32))
    np.testing.assert_array_equal(last["state"], toy["states"][-1].astype(np.float32))
    assert first["action_is_pad"].tolist() == [False] * CHUNK
    assert last["action_is_pad"].tolist() == [False] + [True] * 4
    np.testing.assert_array_equal(last["actions"], np.repeat(toy["actions"][-1:].astype(np.float32), CHUNK, 0))


def test_windows_leave_out_episodes_and_refuse_cameras(both):
    assert ActionWindows(both[0], CHUNK, skip=[0])[0]["id"] == "toy/1/0"
    with pytest.raises(ValueError, match=r"no camera \['top'\]; it has \['front', 'wrist'\]"):
        ActionWindows(both[0], CHUNK, cameras=["top"])
    with pytest.raises(ValueError, match=r"skip_episodes names \[7\], but .* has episodes 0 to 1"):
        ActionWindows(both[0], CHUNK, skip=[7])


def test_repeated_frames_are_no_rows(tmp_path):
    with EpisodeWriter(tmp_path / "seldom", FPS, seen_every=5) as writer:
        for number in range(2):
            writer.write(**toy_episode(number))
    data = open_demonstrations(tmp_path / "seldom")

    rows = list(ActionWindows(data, CHUNK))

    assert [row["id"] for row in rows] == [f"seldom/{episode}/{step}" for episode in (0, 1) for step in (0, 5, 10)]
    for row, step in zip(rows[3:], (0, 5, 10), strict=True):
        np.testing.assert_array_equal(row["state"], toy_episode(1)["states"][step].astype(np.float32))
    with pytest.raises(ValueError, match=r"frames is 2, but .* has a new frame every 5 steps"):
        ActionWindows(data, CHUNK, frames=2)
    with pytest.raises(ValueError, match="vega3d_seen_every=5, but None is to be written"):
        EpisodeWriter(tmp_path / "seldom", FPS)


@pytest.mark.parametrize(("every", "frames"), [(1, 3), (5, 1)])
def test_rows_are_the_same_from_images_in_memory(tmp_path, every, frames):
    with EpisodeWriter(tmp_path / "seldom", FPS, seen_every=every) as writer:
        for number in range(2):
            writer.write(**toy_episode(number))
    data = open_demonstrations(tmp_path / "seldom")
    rows = list(ActionWindows(data, CHUNK, frames))

    kept = ActionWindows(data, CHUNK, frames, cameras=["wrist", "front"], in_memory=True)
    for video in (tmp_path / "seldom").rglob("*.mp4"):
        video.unlink()

    assert len(kept) == len(rows)
    for one, other in zip(kept, rows, strict=True):
        assert list(one["images"]) == ["wrist", "front"]
        for camera, images in one["images"].items():
            np.testing.assert_array_equal(images, other["images"][camera])


@pytest.mark.parametrize("steps", [0, -4, 2.5, True, "4"])
def test_steps_between_frames_are_counted(steps, tmp_path):
    with pytest.raises(ValueError, match=r"seen_every is .* at least 1"):
        EpisodeWriter(tmp_path / "new", FPS, seen_every=steps)
    with EpisodeWriter(tmp_path / "old", FPS) as writer:
        writer.write(**toy_episode(0))
    info = tmp_path / "old" / "meta" / "info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "vega3d_seen_every": steps}))
    with pytest.raises(ValueError, match=r"vega3d_seen_every in .*info\.json is .* at least 1"):
        open_demonstrations(tmp_path / "old")


def test_statistics_are_those_of_all_numbers_and_are_kept(both, tmp_path, monkeypatch):
    data = both[0]
    found = dataset_statistics(data)

    states, actions = (np.concatenate(part).astype(float) for part in zip(*map(data.numbers, range(2)), strict=True))
    for name, values in (("state", states), ("action", actions)):
        for key in ("mean", "std", "min", "max"):
            np.testing.assert_allclose(found[name][key], getattr(values, key)(0), rtol=1e-9)
        width = np.ptp(values, axis=0)
        for key, share in (("q01", 0.01), ("q99", 0.99)):
            exact = np.quantile(values, share, axis=0, method="inverted_cdf")
            assert (np.abs(found[name][key] - exact) <= width / statistics.BINS).all()
    assert found["dataset"] == "toy" and found["frames"] == 24
    assert not list(data.folder.rglob("*stat*.json"))[1:]  # lerobot's own alone
    monkeypatch.setattr(statistics, "computed_statistics", None)
    assert dataset_statistics(data) == found


def test_statistics_of_other_episodes_are_others(both):
    one, all_of_them = dataset_statistics(both[0], [0]), dataset_statistics(both[0])
    assert one["content"] != all_of_them["content"] == dataset_statistics(both[1])["content"]


def test_a_damaged_store_of_statistics_is_computed_again(both, tmp_path):
    expected = dataset_statistics(both[0], folder=tmp_path / "mine")
    [file] = (tmp_path / "mine").iterdir()
    file.write_text("{")
    assert dataset_statistics(both[0], folder=tmp_path / "mine") == expected


# --- What cannot be learned from ---------------------------------------------------------------------------------


def with_numbers(folder: Path, states: np.ndarray | None = None, actions: np.ndarray | None = None) -> None:
    toy = toy_episode(0)
    given = {"states": toy["states"] if states is None else states}
    given["actions"] = toy["actions"] if actions is None else actions
    np.savez(folder / "episode_0" / "numbers.npz", **given)


def spoiled(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[4, 1] = np.nan
    return values


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: with_numbers(f, actions=spoiled(toy_episode(0)["actions"])), r"has action\[1\] = nan at step 4"),
        (lambda f: with_numbers(f, states=spoiled(toy_episode(0)["states"])), r"has state\[1\] = nan at step 4"),
        (lambda f: (f / "episode_0/numbers.npz").unlink(), "has no actions"),
        (lambda f: (f / "episode_0/episode.json").write_text('{"task": " "}'), "has an empty task"),
    ],
)
def test_bad_episodes_are_named_and_can_be_left_out(tmp_path, spoil, message):
    folder = write_plain(tmp_path / "plain")
    spoil(folder)
    data = open_demonstrations(folder)
    with pytest.raises(ValueError, match=rf"episode 0 {message}.*skip_episodes: \[0\]"):
        check_demonstrations(data)
    assert check_demonstrations(data, [0]) == [1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "dataset.json").write_text('{"fps": 0, "cameras": ["front"]}'), "fps=0"),
        (lambda f: (f / "dataset.json").unlink(), "holds no demonstrations"),
        (lambda f: (f / "episode_0/episode.json").write_text("{}"), "task=None"),
        (lambda f: np.savez(f / "episode_0/numbers.npz", states=np.zeros(3)), "no actions"),
        (lambda f: with_numbers(f, states=np.zeros((12, 5))), "episode 1 has states"),
        (lambda f: with_numbers(f, states=np.zeros((11, 3))), "11 states and 12 actions"),
        (lambda f: (f / "episode_0/front/3.png").unlink(), "11 pictures, but the episode 12 steps"),
        (lambda f: (f / "episode_0/wrist.mp4").unlink(), "no file .*wrist.mp4"),
    ],
)
def test_plain_files_that_are_wrong(tmp_path, spoil, message):
    folder = write_plain(tmp_path / "plain")
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        ActionWindows(open_demonstrations(folder), CHUNK)[0]


def edit_info(folder: Path, **values) -> None:
    path = folder / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: edit_info(f, codebase_version="v2.1"), "version v2.1.*must be v3.*converter"),
        (lambda f: edit_info(f, features={}), "needs observation.state"),
        (lambda f: edit_info(f, fps=None), "has no fps"),
        (lambda f: edit_info(f, data_path="../{chunk_index}{file_index}.parquet"), "names no file in"),
        (lambda f: (f / "meta/episodes/chunk-000/file-000.parquet").unlink(), r"must have 0, 1, 2"),
        (lambda f: (f / "data/chunk-000/file-000.parquet").write_bytes(b"x"), "cannot be read"),
        (lambda f: edit_info(f, video_path="{nothing}.mp4"), "no whole data set of LeRobot .KeyError"),
        (
            lambda f: edit_info(f, features={"observation.state": {"shape": [3]}, "action": {"shape": [3]}}),
            "no camera",
        ),
        (lambda f: (f / "meta/tasks.parquet").unlink(), "no file .*tasks.parquet"),
        (lambda f: (f / "videos/observation.images.wrist/chunk-000/file-000.mp4").unlink(), "no file .*mp4"),
    ],
)
def test_lerobot_folders_that_are_wrong(tmp_path, spoil, message):
    folder = write_toy(tmp_path / "toy", 2)
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        ActionWindows(open_demonstrations(folder), CHUNK)[0]
