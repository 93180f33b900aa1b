"""Runs code in a process with what a checkpoint's own code files need, and neither the package nor anything else."""

from pathlib import Path

from forks import run_forked
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
for name in [name for name in sys.modules if name.partition(".")[0] in {HIDDEN}]:
    del sys.modules[name]
"""


def run_without_package(code: str, folder: Path, *arguments: str, **variables: str) -> str:
    """Standard output of `code`; `folder` holds its caches, `variables` are more of its environment."""
    environment = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(folder)}
    environment |= {"OMP_NUM_THREADS": "1", **variables}
    result = run_forked(HIDE + code, *arguments, folder=folder, environment=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout
