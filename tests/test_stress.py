"""Long tests, run by `make stress`: compiled blocks, and processes killed in the middle of a write."""

import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from tiny_models import BLOCK
from vega3d import VegaForSpatialReasoning

pytestmark = pytest.mark.stress

SAVE_FOR_EVER = """
import sys
from vega3d import VegaForSpatialReasoning
model = VegaForSpatialReasoning.from_pretrained(sys.argv[1])
print("ready", flush=True)
while True:
    model.save_pretrained(sys.argv[2])
"""


def test_compiled_blocks_equal_eager_ones(assemble):
    random_frames = torch.Generator().manual_seed(0)
    clip = torch.randint(0, 256, (5, 3, 32, 48), dtype=torch.uint8, generator=random_frames)
    eager, compiled = (assemble(block=BLOCK, compile=on).model.generator.encode([clip])[0] for on in (False, True))
    torch.testing.assert_close(compiled, eager, atol=2e-5, rtol=0)


@pytest.mark.parametrize("round_number", range(20))
def test_a_killed_save_spoils_nothing(checkpoint, tmp_path, round_number):
    """Each file is whole at any moment: a save over an existing checkpoint leaves one that loads."""
    VegaForSpatialReasoning.from_pretrained(checkpoint).save_pretrained(tmp_path / "model")
    command = [sys.executable, "-c", SAVE_FOR_EVER, str(checkpoint), str(tmp_path / "model")]

    saver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    assert saver.stdout is not None
    assert saver.stdout.readline().strip() == "ready"

    time.sleep(random.Random(round_number).uniform(0.05, 0.6))
    saver.send_signal(signal.SIGKILL)

    saver.wait()

    for file in checkpoint.rglob("*.safetensors"):
        assert (tmp_path / "model" / file.relative_to(checkpoint)).read_bytes() == file.read_bytes()

    model = VegaForSpatialReasoning.from_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")

    left_over = [
        path for path in (tmp_path / "model").rglob("*") if path.name.startswith(".") or "partial" in path.name
    ]

    assert left_over == []
