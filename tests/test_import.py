"""`import vega3d` is light, and the Auto classes know the model all the same, whichever is imported first."""

import os
import subprocess
import sys

import pytest

import vega3d
from forks import run_forked
from tiny_checkpoints import FROZEN

LOADS = {
    "AutoConfig": "AutoConfig.from_pretrained(folder)",
    "AutoModel": "AutoModel.from_pretrained(folder)",
    "AutoProcessor": "AutoProcessor.from_pretrained(folder)",
    "pipeline": "pipeline('image-text-to-text', model=folder, device='cpu').model",
}
CLASSES = {"AutoConfig": "VegaConfig", "AutoProcessor": "VegaProcessor"}


def run_python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_neither_torch_nor_transformers():
    code = "import sys, vega3d; print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"

    assert run_python(code) == "[]"


def class_of(made: str, first: str, ours: str, theirs: str) -> str:
    """The class of what is made in a process of its own, where both are imported in the order that `first` says."""
    lines = [ours, theirs] if first == "vega3d" else [theirs, ours]
    code = "\n".join(["import sys", "folder = sys.argv[1]", *lines, f"print(type({made}).__name__)"])
    done = run_forked(code, str(FROZEN), environment=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("first", ["vega3d", "transformers"])
@pytest.mark.parametrize("name", LOADS)
def test_auto_classes_know_the_model_whichever_is_imported_first(name, first):
    made = class_of(LOADS[name], first, "import vega3d", f"from transformers import {name}")

    assert made == CLASSES.get(name, "VegaForSpatialReasoning")


@pytest.mark.parametrize("first", ["vega3d", "transformers"])
def test_auto_classes_know_the_model_though_only_its_config_is_imported(first):
    config = "from vega3d.modeling.configuration_vega3d import VegaConfig"
    model = "AutoModel.from_config(VegaConfig.from_pretrained(folder))"

    assert class_of(model, first, config, "from transformers import AutoModel") == "VegaForSpatialReasoning"


def test_every_public_name_is_there_and_another_is_refused():
    for name in vega3d.__all__:
        assert getattr(vega3d, name).__name__ == name
        assert name in dir(vega3d)
    with pytest.raises(AttributeError, match="no attribute 'VegaConfg'"):
        vega3d.VegaConfg  # noqa: B018
