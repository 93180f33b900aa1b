"""Sweeps killed from outside at any moment."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from posed_clips import room_clip, write_scannet

from vega3d.analysis.summary import read_rows

KILLS = 5


def start(data: Path, output: Path) -> subprocess.Popen:
    options = ["--data", data, "--output", output, "--controls", "random,noise,vae", "--timestep", "100,300,500,700"]
    command = [sys.executable, "-m", "vega3d_cli", "analyze", "sweep", *map(str, options)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.stress
def test_a_sweep_killed_many_times_gives_the_same_table(tmp_path):
    for number in range(6):
        write_scannet(tmp_path / "scans" / f"scene{number:04d}_00", room_clip(frames=6, turn=40.0 + 5 * number))
    assert start(tmp_path / "scans", tmp_path / "whole").wait() == 0

    moments = random.Random(0)
    parts = tmp_path / "cut" / "parts"

    for _ in range(KILLS):
        known = len(list(parts.glob("*.json")))
        process = start(tmp_path / "scans", tmp_path / "cut")
        while len(list(parts.glob("*.json"))) <= known + 2 and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.wait()

    assert start(tmp_path / "scans", tmp_path / "cut").wait() == 0
    assert read_rows(tmp_path / "cut" / "clips.parquet") == read_rows(tmp_path / "whole" / "clips.parquet")
