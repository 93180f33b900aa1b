"""Extraction in shares, by several processes and machines: the same bytes as by one process."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from command_line import run
from tiny_checkpoints import FROZEN
from vega3d.features.cache import FeatureCache
from vega3d.features.clips import share_of_clips
from vega3d.features.entries import list_entries
from vega3d.video_files import write_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    (folder / "late").mkdir()
    for seed, name in enumerate(("room", "study", "late/room")):
        blocks = np.random.default_rng(seed).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
        write_video(folder / f"{name}.mp4", blocks.repeat(8, axis=1).repeat(8, axis=2), 2)
    return folder


def cached(videos: Path, folder: Path, *options: object) -> dict:
    done = run(
        "cache", videos, "--model", FROZEN, "--num-frames", 2, "--cache", folder, "--device", "cpu", *options, "--json"
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(entry.path.relative_to(folder)): entry.path.read_bytes() for entry in list_entries(folder)}


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "cache"
    assert cached(videos, folder)["entries"] == 3
    return folder


def test_shares_of_two_machines_merge_to_the_bytes_of_one_process(videos, whole, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"

    assert [cached(videos, first, "--shard", "0/2")[name] for name in ("shard", "clips")] == ["0/2", 2]
    assert cached(videos, second, "--shard", "1/2")["clips"] == 1
    merged = json.loads(run("cache", "--merge", second, "--cache", first, "--json").stdout)

    assert [merged[name] for name in ("merged", "there_already", "bad")] == [1, 0, 0]
    assert contents(first) == contents(whole)


def test_a_launcher_says_which_share(videos, whole, tmp_path, monkeypatch):
    """As torchrun does, with one folder for all."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        assert cached(videos, tmp_path / "c")["shard"] == f"{rank}/2"

    assert contents(tmp_path / "c") == contents(whole)


def test_bad_entries_are_not_merged(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "damaged")
    entry = list_entries(tmp_path / "damaged")[0].path
    entry.write_bytes(entry.read_bytes()[:-1])

    counts = FeatureCache(tmp_path / "c").merge(tmp_path / "damaged")

    assert counts == {"merged": 2, "there_already": 0, "bad": 1}
    assert FeatureCache(tmp_path / "c").merge(whole) == {"merged": 1, "there_already": 2, "bad": 0}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shares_are_all_clips_each_once(count):
    shares = [share_of_clips(range(12), number, count) for number in range(count)]  # type: ignore[arg-type]

    assert sorted(clip for share in shares for clip in share) == list(range(12))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("shard", ["2/2", "-1/2", "1", "0/0", "a/b", "1/2/3"])
def test_shares_that_are_none_are_refused(videos, tmp_path, shard):
    done = run("cache", videos, f"--shard={shard}", "--cache", tmp_path / "c")

    assert done.exit_code == 2 and f"--shard is '{shard}', but must be I/N with I from 0 to N-1" in done.stderr


def test_a_share_beside_a_launcher_is_refused(videos, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = run("cache", videos, "--shard", "0/2", "--cache", tmp_path / "c")

    assert done.exit_code == 2 and "a launcher has started 2 processes" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--merge", "nowhere"], "nowhere holds no feature cache"),
        (["--stats", "--shard", "0/2"], "--stats reads no clips, so --shard would have no effect"),
    ],
)
def test_bad_arguments_of_shares(tmp_path, arguments, message):
    done = run("cache", *arguments, "--cache", tmp_path / "c")

    assert done.exit_code == 2 and message in done.stderr
