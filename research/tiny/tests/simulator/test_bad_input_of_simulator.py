"""The simulator's commands x kinds of bad value, as `tests/test_bad_input.py` has them for `vega3d`."""

import shutil
from pathlib import Path

import pytest

from bad_commands import Files, Options, argument_cases, check_argument, check_file, file_cases
from bad_values import BAD_YAML, COUNT, DEVICES, INPUTS, NAMES, NEW_FOLDERS, NOT_MODELS, POSITIVE, SEED, special_files
from research.tiny.simulator import __main__ as simulator
from research.tiny.simulator import read_generator_config
from tiny_checkpoints import FROZEN

APPLICATION = (simulator.app, simulator.NAME)
TRAIN_GENERATOR = ["train-generator", "generator.yaml", "--stage", "vae"]

OPTIONS: Options = {
    "sample": (
        ["sample", "model", "--output", "samples"],
        {
            "--count": COUNT,
            "--seed": SEED,
            "--steps": COUNT,
            "--shift": POSITIVE,
            "--solver": NAMES,
            "--num-frames": (*COUNT, "2", "4"),
            "--size": (*COUNT, "17"),
            "--device": DEVICES,
            "--output": tuple(name for name in NEW_FOLDERS if name != "folder"),
        },
    ),
    "train-generator": (
        TRAIN_GENERATOR,
        {
            "--max-minutes": POSITIVE,
            "--stage": NAMES,
            "--set": (
                "",
                "=",
                "x",
                "zzz=1",
                "vae=[1]",
                "dit=1",
                "rooms=null,",
                "vae.zzz=1",
                *(f"vae.steps={value}" for value in ("0", "-1", "1.5", "null", "[]", "nan", "9" * 400)),
                *(f"vae.dim_mult={value}" for value in ("[0,0,0]", "[]", "1", "[1]", "[1,-1,1]", '["a"]')),
                *(f"vae.learning_rate={value}" for value in ("0", "-1", "NaN", "Infinity", "[]")),
                *(f"rooms.workers={value}" for value in ("-1", "1.5", "[]", "null")),
                *(f"rooms.size={value}" for value in ("0", "-1", "17", "[]")),
                *(f"device={value}" for value in ("zzz", "1", "null")),
                *(f"output={value}" for value in ("1", "null", "pipe", "regular", "regular/x")),
            ),
        },
    ),
}
ARGUMENTS = [
    ["sample"],
    *(["sample", name, "--output", "samples"] for name in NOT_MODELS),
    *(["train-generator", name, "--stage", "vae"] for name in INPUTS),
]
FILES: Files = {
    "generator.yaml": (TRAIN_GENERATOR, BAD_YAML, ()),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with a good file of each kind that a command reads, and one path of each special kind."""
    folder = tmp_path_factory.mktemp("world")
    special_files(folder)
    shutil.copytree(FROZEN, folder / "model")
    (folder / "generator.yaml").write_text(
        "output: world\ndevice: cpu\nrooms: {size: 64, num_frames: 5, clip_frames: 5}\n"
        "vae: {steps: 1, batch_size: 1, learning_rate: 1.0e-3}\n"
        "dit: {steps: 1, batch_size: 1, learning_rate: 1.0e-3}\n"
    )
    return folder


@pytest.fixture
def here(world, monkeypatch) -> Path:
    monkeypatch.chdir(world)
    return world


@pytest.mark.parametrize("arguments", argument_cases(OPTIONS, ARGUMENTS))
def test_a_bad_argument_of_a_simulator_command_ends_with_one_line(arguments, here, capsys):
    check_argument(arguments, here, capsys, *APPLICATION)


@pytest.mark.parametrize(("file", "kind"), file_cases(FILES))
def test_a_bad_file_of_a_simulator_command_ends_with_one_line(file, kind, here, capsys):
    check_file(here / file, kind, FILES, here, capsys, *APPLICATION)


@pytest.mark.parametrize("kind", [kind for kind in INPUTS if kind != "empty text"])
def test_its_config_refuses_what_is_no_file(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = special_files(tmp_path)[kind]

    with pytest.raises((ValueError, OSError)) as refusal:
        read_generator_config(path)

    assert str(refusal.value)
