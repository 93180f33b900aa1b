"""Runs code in a process that cannot import the package, as one that has only a checkpoint's own code files."""

from pathlib import Path

from forks import run_forked

HIDE_THE_PACKAGE = """
import importlib.abc, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("vega3d", "vega3d_cli"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
"""


def run_without_package(code: str, folder: Path, *arguments: str, **variables: str) -> str:
    """Standard output of `code`; `folder` holds its caches, `variables` are more of its environment."""
    environment = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(folder)}
    environment |= {"OMP_NUM_THREADS": "1", **variables}
    result = run_forked(HIDE_THE_PACKAGE + code, *arguments, folder=folder, environment=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout
