"""`import vega3d` is light, and the Auto classes know the model all the same, whichever is imported first."""

import json
import subprocess
import sys

import pytest

import vega3d
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


# A process for each order and class, forked before either package is imported, but after what takes most of the time.
TOLD_BY_FORKS = """
import json, os, sys, traceback
import bitsandbytes, torch._dynamo

def told(lines):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            names = {"folder": sys.argv[1]}
            exec(lines, names)
            os.write(write, names["name"].encode())
        except BaseException:
            os.write(write, traceback.format_exc().encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text

before = {name.partition(".")[0] for name in sys.modules}
assert not before & {"vega3d", "transformers", "huggingface_hub", "diffusers"}, before
print(json.dumps({case: told(lines) for case, lines in json.loads(sys.argv[2]).items()}))
"""


def in_both_orders(ours: str, theirs: str, made: str) -> dict[str, str]:
    """Lines that import both and note the class of what is made, by what comes first."""
    note = f"name = type({made}).__name__"
    return {"vega3d": "\n".join([ours, theirs, note]), "transformers": "\n".join([theirs, ours, note])}


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    cases = {}
    for name, made in LOADS.items():
        for first, lines in in_both_orders("import vega3d", f"from transformers import {name}", made).items():
            cases[f"{name} {first}"] = lines
    config = "from vega3d.modeling.configuration_vega3d import VegaConfig"
    made = "AutoModel.from_config(VegaConfig.from_pretrained(folder))"
    for first, lines in in_both_orders(config, "from transformers import AutoModel", made).items():
        cases[f"config alone {first}"] = lines
    return json.loads(run_python(TOLD_BY_FORKS, str(FROZEN), json.dumps(cases)).splitlines()[-1])


@pytest.mark.parametrize("first", ["vega3d", "transformers"])
@pytest.mark.parametrize("name", LOADS)
def test_auto_classes_know_the_model_whichever_is_imported_first(name, first, told):
    assert told[f"{name} {first}"] == CLASSES.get(name, "VegaForSpatialReasoning")


@pytest.mark.parametrize("first", ["vega3d", "transformers"])
def test_auto_classes_know_the_model_though_only_its_config_is_imported(first, told):
    assert told[f"config alone {first}"] == "VegaForSpatialReasoning"


def test_every_public_name_is_there_and_another_is_refused():
    for name in vega3d.__all__:
        assert getattr(vega3d, name).__name__ == name
        assert name in dir(vega3d)
    with pytest.raises(AttributeError, match="no attribute 'VegaConfg'"):
        vega3d.VegaConfg  # noqa: B018
