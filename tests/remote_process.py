"""Runs code in a process with what a checkpoint's own code files need, and neither the package nor anything else."""

import subprocess
import sys
from pathlib import Path

from vega3d.extras import EXTRAS

HIDDEN = ("vega3d", "vega3d_cli", "rich", "trl", "typer", "xxhash", *EXTRAS)  # but not accelerate, torchvision and av
HIDE = f"""
import sys
from importlib.machinery import PathFinder

class Without:
    find_distributions = staticmethod(PathFinder.find_distributions)

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in {HIDDEN} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


def run_without_package(code: str, folder: Path, *arguments: str, **variables: str) -> str:
    """Standard output of `code`; `folder` holds its script and its caches, `variables` are more of its environment."""
    script = folder / "remote.py"
    script.write_text(HIDE + code)
    environment = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(folder)}
    environment |= variables
    command = [sys.executable, "-I", str(script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout
