"""What vLLM finds of the plug-in, where vLLM itself is not needed: entry point, versions, who imports whom."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from vega3d.extras import MissingExtraError
from vega3d.vllm_plugin import ARCHITECTURE, MODEL, TESTED, register, version_warning

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_entry_point_is_the_function(project):
    (value,) = project["entry-points"]["vllm.general_plugins"].values()

    assert EntryPoint("vega3d", value, "vllm.general_plugins").load() is register


def test_the_extra_asks_for_the_versions_that_were_tested(project):
    low, high = (".".join(map(str, bound)) for bound in TESTED)

    assert project["optional-dependencies"]["vllm"] == [f"vllm>={low},<{high}"]


def test_the_model_is_where_the_registry_looks_for_it():
    module, _, name = MODEL.partition(":")
    file = ROOT / "src" / Path(*module.split(".")).with_suffix(".py")

    assert f"\nclass {name}(" in file.read_text(encoding="utf-8")
    assert ARCHITECTURE in __import__("vega3d").__all__


def test_importing_the_plugin_imports_neither_vllm_nor_torch():
    code = "import sys, vega3d.vllm_plugin; print([name for name in ('vllm', 'torch') if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"


def test_without_vllm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)  # what Python does for a package that is not there

    with pytest.raises(MissingExtraError, match=r"pip install 'vega3d\[vllm\]'"):
        register()


@pytest.mark.parametrize("version", ["0.32.0", "0.33.0", "0.33.1rc2.dev3+gabc", "0.32.0+cpu"])
def test_tested_versions_are_taken_in_silence(version):
    assert version_warning(version) is None


@pytest.mark.parametrize("version", ["0.31.9", "0.34.0", "1.0.0", "dev"])
def test_another_version_is_told_the_range(version):
    warning = version_warning(version)

    assert warning is not None and "from 0.32 to below 0.34" in warning and version in warning
    assert "pip install 'vllm>=0.32,<0.34'" in warning
