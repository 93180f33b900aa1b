from pathlib import Path

import pytest
from toy_generators import train


@pytest.fixture(scope="session")
def simulator(tmp_path_factory) -> tuple[Path, dict]:
    """Output of a whole toy training: rooms -> VAE -> transformer and its image twin; and the three results."""
    output = tmp_path_factory.mktemp("simulator")
    return output, {stage: train(stage, output) for stage in ("vae", "generator", "image-twin")}
