"""The base install answers; what it leaves out is named by the extra that installs it."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

import vega3d
from tiny_checkpoints import FROZEN
from vega3d.extras import EXTRAS

HIDE = """
import sys
from importlib.machinery import PathFinder


class Without:
    \"\"\"Finds what `PathFinder` finds, but for some packages.\"\"\"

    def __init__(self, packages):
        self.packages = packages
        self.find_distributions = PathFinder.find_distributions

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.packages else PathFinder.find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Without(sys.argv.pop(1).split(","))
"""
COMMAND = f"{HIDE}\nimport vega3d_cli\nsys.exit(vega3d_cli.run(sys.argv[1:]))"
ASK = ["ask", "room", "Which is larger?", "--options", "bed", "lamp", "--num-frames", "2", "--model", str(FROZEN)]
NEEDS = {  # package: a command that needs it
    "matplotlib": [*ASK, "--save-gates", "gates.png"],
    "bitsandbytes": [*ASK, "--4bit"],
    "torchao": [*ASK, "--memory", "int8"],
    "gradio": ["demo", "--port", "7999"],
    "fastapi": ["serve", "--port", "7999"],
    "openai": ["serve", "--port", "7999"],
    "embreex": ["synthesize", "x", "--scenes", "1"],
    "scipy": ["analyze", "correspondence"],
    "pyarrow": ["analyze", "sweep", "--output", "x"],
}


PROJECT = Path(__file__).parents[1]
ROOMS = ["embreex", "scipy", "pyarrow"]
OWN = ("robot", "torchao", "vllm")  # extras that the tests' own environment lacks
SOURCE = Path(vega3d.__file__).parent
# Nothing imports these folders but `vega3d demo` and `vega3d serve`, which ask for their packages first, and vLLM.
HOMES = {"gradio": "demo", "fastapi": "serving", "uvicorn": "serving", "openai": "serving", "vllm": "vllm_plugin"}


def run_without(packages: list[str], arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", COMMAND, ",".join(packages), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_the_table_of_extras_is_that_of_the_project():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    base = [requirement.partition(">=")[0] for requirement in project["dependencies"]]
    for module, extra in EXTRAS.items():
        named = [requirement.partition(">=")[0] for requirement in project["optional-dependencies"][extra]]
        assert module in named and module not in base


def test_each_missing_package_names_its_extra(tmp_path):
    code = f"{HIDE}\nimport json\nfrom vega3d.extras import EXTRAS, MissingExtraError, optional_module\nsaid = {{}}\n"
    code += "for name in EXTRAS:\n    try:\n        optional_module(name)\n"
    code += "    except MissingExtraError as error:\n        said[name] = str(error)\nprint(json.dumps(said))"
    done = subprocess.run(
        [sys.executable, "-c", code, ",".join(EXTRAS)], capture_output=True, text=True, timeout=60, check=True
    )

    said = json.loads(done.stdout)

    assert said.keys() == EXTRAS.keys()
    for name, extra in EXTRAS.items():
        assert name in said[name] and f"pip install 'vega3d[{extra}]'" in said[name]


def test_no_module_imports_a_package_of_an_extra_at_its_top():
    found = []
    for file in sorted(SOURCE.parent.rglob("*.py")):
        nodes = ast.parse(file.read_text(encoding="utf-8")).body
        modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        modules += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
        packages = {module.partition(".")[0] for module in modules} & EXTRAS.keys()
        found += [
            f"{file.name}: {package}" for package in packages if file.parent != SOURCE / HOMES.get(package, "none")
        ]

    assert found == []


@pytest.mark.parametrize("packages", [ROOMS, ROOMS[1:]])
def test_a_benchmark_of_rooms_names_the_extra_that_makes_them(packages, tmp_path):
    done = run_without(packages, ["evaluate", "--baseline", "chance", "--limit", "1"], tmp_path)

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("Run: pip install 'vega3d[rooms]'")


@pytest.mark.parametrize("package", NEEDS)
def test_a_command_without_its_package_ends_with_the_line_of_the_extra(package, tmp_path):
    done = run_without([package], NEEDS[package], tmp_path)

    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.endswith(f"Run: pip install 'vega3d[{EXTRAS[package]}]'")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_ask_needs_no_extra(tmp_path):
    done = run_without([*EXTRAS, "sentencepiece", "sklearn", "trl"], ASK, tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("A. bed", "B. lamp")


def test_the_lowest_versions_are_the_floors_of_the_project():
    """`make test-lowest` installs them; a floor such as 1.11 stands for the first 1.11.x that there is."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    texts = [
        *project["dependencies"],
        *(text for extra, texts in project["optional-dependencies"].items() if extra not in OWN for text in texts),
    ]
    floors = dict(found.groups() for found in (re.match(r"([\w-]+)>=([\d.]+)", text) for text in texts) if found)
    lines = (PROJECT / "constraints-lowest.txt").read_text().splitlines()
    lowest = dict(line.split("==") for line in lines if "==" in line)

    assert lowest.pop("huggingface-hub").startswith("1.")  # the other major version is that of constraints.txt
    assert lowest.keys() == floors.keys()
    for name, floor in floors.items():
        numbers = floor.split(".")
        assert lowest[name].split(".")[: len(numbers)] == numbers, name


def test_the_packages_of_the_base_install_run_on_the_lowest_python():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lowest = project["requires-python"].removeprefix(">=")
    for requirement in project["dependencies"]:
        name = requirement.partition(">=")[0]
        assert SpecifierSet(metadata(name)["Requires-Python"] or "").contains(f"{lowest}.0"), name


def test_lmms_eval_finds_its_model_without_loading_it():
    """The entry point is found in the project, and what it names imports neither torch nor lmms-eval."""
    points = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"]
    code = "import sys, pkgutil; made = pkgutil.resolve_name(sys.argv[1]); print(callable(made), *sorted("
    code += "{'torch', 'transformers', 'lmms_eval'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code, points["vega3d"]], capture_output=True, text=True, timeout=60)

    assert done.stdout.split() == ["True"], done.stderr
