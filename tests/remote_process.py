"""Runs code in a process that cannot import the package, as one that has only a checkpoint's own code files."""

import subprocess
import sys
from pathlib import Path

HIDE_THE_PACKAGE = """
import importlib.abc, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("vega3d", "vega3d_cli"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
"""


def run_without_package(code: str, folder: Path, *arguments: str, **variables: str) -> str:
    """Standard output of `code`; `folder` holds its script and its caches, `variables` are more of its environment."""
    script = folder / "remote.py"
    script.write_text(HIDE_THE_PACKAGE + code)
    environment = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(folder)}
    environment |= variables
    command = [sys.executable, "-I", str(script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout
