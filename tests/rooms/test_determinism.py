"""The same frames give the same bytes, also on a busy machine."""

import subprocess
import sys

import numpy as np
import pytest

from vega3d.video_files import write_video


@pytest.fixture
def busy():
    """Two processes that leave no processor idle."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(2)]
    yield
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("busy")
def test_thirty_encodings_under_load_are_one(tmp_path):
    random = np.random.default_rng(0)
    picture = np.kron(random.integers(0, 128, (24, 24, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    frames = np.stack([np.roll(picture, 3 * step, 1) for step in range(17)])
    frames += random.integers(0, 99, frames.shape, dtype=np.uint8)

    encoded = set()
    for _ in range(30):
        write_video(tmp_path / "clip.mp4", frames, 4)
        encoded.add((tmp_path / "clip.mp4").read_bytes())

    assert len(encoded) == 1
