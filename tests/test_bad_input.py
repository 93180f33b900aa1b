"""Commands and loaders x kinds of bad value: one line, exit code 2, nothing left behind, no file of the user touched.

The tables below name for each option and each file what it may not be; `bad_values.py` says what the kinds are. A new
command or option gets its line here.
"""

import faulthandler
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vega3d_cli
from bad_values import (
    BAD_JSON,
    BAD_YAML,
    COUNT,
    DAMAGE,
    INPUTS,
    INTEGER,
    NAMES,
    NEW_FOLDERS,
    OUTPUTS,
    POSITIVE,
    own_device,
    special_files,
)
from evaluation.evaluation_data import question_records
from research.tiny.simulator import __main__ as simulator
from tiny_checkpoints import FROZEN
from vega3d.evaluation.answerers import ChanceAnswerer
from vega3d.evaluation.run import evaluate
from vega3d.features.cache import FeatureCache
from vega3d.shipped import example_clip

SECONDS = 10  # that a refusal may take
HANGS = 60  # [s] after which the whole run is ended with a traceback: a read of a pipe cannot be interrupted

SEED = (*INTEGER, "-1")
LIST_OF_COUNTS = ("", "abc", "1,,2", "1.5", "1,1", "nan", "999", ",")
WORDS = NAMES[1:]
DEVICES = ("", "zzz", "meta", "hpu", "privateuseone", "cuda:99", "cuda:-1", "cpu:x", "mps", "Ünïcode")
NOT_MODELS = ("", "zzz", "../..", "a/b/c", "pipe", "loop", "device", "socket", "folder", "org/none", "x" * 300)

RESULTS = ["--first", "a.json", "--second", "b.json"]
ASK = ["ask", "room", "Is there a bed in this room?"]
TRAIN, TRAIN_GENERATOR = ["train", "train.yaml"], ["train-generator", "generator.yaml", "--stage", "vae"]
SHARED_ANALYSIS = {
    "--views": COUNT,
    "--clips": COUNT,
    "--controls": WORDS[:3],
    "--block": LIST_OF_COUNTS,
    "--timestep": LIST_OF_COUNTS,
    "--mode": WORDS[:3],
    "--size": ("", "x", "1x", "832", "axb", "0x0", "-1x4", "832x480x2", "1x1"),
    "--layout": NAMES[:3],
    "--split": NAMES[:3],
    "--intrinsics": ("", "1", "a,b,c,d", "1,2,3", "nan,1,1,1", "0,0,0,0", "inf,1,1,1", "-1,1,1,1"),
    "--seed": SEED,
    "--workers": COUNT,
    "--device": DEVICES,
    "--data": INPUTS,
    "--cache": NEW_FOLDERS,
}

OPTIONS: dict[str, tuple[list[str], dict[str, tuple[str, ...]]]] = {
    "ask": (
        ASK,
        {
            "--num-frames": COUNT,
            "--fps": POSITIVE,
            "--max-new-tokens": COUNT,
            "--save-gates": (*OUTPUTS, "clip.mp4"),
            "--model": NOT_MODELS,
            "--device": DEVICES,
            "--cache": NEW_FOLDERS,
            "--options": ("", "the bed"),
            "--zzz": ("1",),
        },
    ),
    "cache": (
        ["cache", "clip.mp4", "--cache", "features"],
        {
            "--num-frames": COUNT,
            "--fps": POSITIVE,
            "--block": tuple(value for value in LIST_OF_COUNTS if value != "1,1"),
            "--timestep": LIST_OF_COUNTS,
            "--max-gib": (*POSITIVE, "1e300"),
            "--model": NOT_MODELS,
            "--device": DEVICES,
            "--cache": NEW_FOLDERS,
            "--split": ("zzz",),
        },
    ),
    "assemble": (
        ["assemble", "--vlm", "folder", "--generator", "folder", "out"],
        {
            "--block": INTEGER,
            "--timestep": (*INTEGER, "-1", "1000"),
            "--fusion": WORDS,
            "--seed": SEED,
            "--dtype": NAMES,
            "--vlm": NOT_MODELS,
            "--generator": NOT_MODELS,
            "--set": ("", "=", "x", "=1", "zzz=1", "seed=1", "vlm=1", "dtype=1", "shift=inf", "max_area=[]"),
        },
    ),
    "info": (["info", "--model"], {}),
    "evaluate": (
        ["evaluate", "vega3d-tiny", "--limit", "1", "--data", "benchmark"],
        {
            "--benchmark": NAMES,
            "--data": INPUTS,
            "--table": NAMES,
            "--baseline": NAMES,
            "--train-table": INPUTS,
            "--limit": COUNT,
            "--num-frames": COUNT,
            "--batch-size": COUNT,
            "--seed": SEED,
            "--workers": COUNT,
            "--output": OUTPUTS,
            "--device": DEVICES,
            "--cache": NEW_FOLDERS,
        },
    ),
    "compare": (
        ["compare", *RESULTS],
        {"--scoring": NAMES, "--output": (*OUTPUTS, "a.json", "b.json", "./a.json"), "--first": INPUTS},
    ),
    "sample": (
        ["sample", "vega3d-tiny", "--output", "samples"],
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
    "synthesize": (
        ["synthesize", "rooms", "--scenes", "1"],
        {
            "--split": NAMES,
            "--scenes": COUNT,
            "--workers": COUNT,
            "--trajectories": COUNT,
            "--size": COUNT,
            "--num-frames": COUNT,
            "--questions-per-type": COUNT,
            "--furniture": INPUTS,
        },
    ),
    "train": (
        TRAIN,
        {
            "--set": (
                "",
                "=",
                "x",
                "zzz=1",
                *(f"steps={value}" for value in ("0", "-1", "1.5", "[]", "{}", "nan", "9" * 400)),
                *(f"warmup={value}" for value in ("-1", "1", "NaN", "Infinity", "[]", "abc")),
                *(f"weight_decay={value}" for value in ("-1", "NaN", "Infinity", "[1]")),
                *(f"tune={value}" for value in ("", "zzz", "[]", "1", "[1]", "[null]", "gate,gate")),
                *(f"data={value}" for value in ("", "1", "[]", "{}", "null", "none.jsonl", '{"path":1}', "pipe")),
                *(f"output={value}" for value in ("", "1", "null", "pipe", "regular", "regular/x", "train.yaml")),
                *(f"model={value}" for value in ("", "1", "null", "none", "pipe")),
                *(f"dtype={value}" for value in ("zzz", "1", "float16", "null", "[]")),
                *(f"learning_rates={value}" for value in ("1", "[]", '{"zzz":1}', '{"gate":"a"}', '{"gate":NaN}')),
                *(f"num_frames={value}" for value in ("0", "-1", "1.5", "[]", "true")),
                *(f"lora_targets={value}" for value in ("(", "1", "[]")),
                *(f"report_to={value}" for value in ("zzz", "1")),
                *(f"cache={value}" for value in ("pipe", "regular", "1")),
            )
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
    "analyze correspondence": (
        ["analyze", "correspondence", "vega3d-tiny", "--data", "scans"],
        {**SHARED_ANALYSIS, "--output": OUTPUTS, "--voxel": POSITIVE},
    ),
    "analyze probe": (
        ["analyze", "probe", "vega3d-tiny", "--data", "scans", "--train-data", "scans"],
        {"--train-data": INPUTS, "--train-clips": COUNT, "--output": OUTPUTS, "--views": COUNT},
    ),
    "analyze sweep": (
        ["analyze", "sweep", "vega3d-tiny", "--data", "scans", "--output", "sweep"],
        {"--output": NEW_FOLDERS, "--voxel": POSITIVE, "--timestep": LIST_OF_COUNTS, "--train-clips": COUNT},
    ),
    "analyze choose": (
        ["analyze", "choose", "folder"],
        {"--against": ("", "zzz", "=", "a=", "a=pipe", "a=none"), "--output": OUTPUTS, "--mode": NAMES[:3]},
    ),
    "demo": (
        ["demo"],
        {
            "--port": (*COUNT, "65536"),
            "--host": ("", "zzz.invalid", "256.256.256.256", "1.2.3.4", "Ünïcode"),
            "--cache": NEW_FOLDERS,
            "--model": NOT_MODELS,
            "--device": DEVICES,
        },
    ),
}

ARGUMENTS: dict[str, list[list[str]]] = {  # what is no option
    "ask": [
        ["ask"],
        ["ask", "room"],
        ["ask", "", "Q?"],
        *(["ask", name, "Q?"] for name in INPUTS if name != "empty text"),
        *(["ask", "clip.mp4", name, "Q?"] for name in ("pipe", "loop", "train.yaml", "in no folder", "device")),
        ["ask", "https://example.com/v.mp4", "Q?"],
        ["ask", "room", "Q?", "--number", "--options", "a", "b"],
        ["ask", "room", "Q?", "--num-frames", "2", "--fps", "1"],
        ["ask", "room", ""],
        ["ask", "view.png", "Q?", "--fps", "4"],
    ],
    "cache": [
        ["cache"],
        ["cache", "--stats", "--clear"],
        ["cache", "--stats", "--num-frames", "4"],
        ["cache", "--clear", "--block", "1"],
        *(["cache", name, "--cache", "new"] for name in INPUTS),
        ["cache", "", "--stats"],
        ["cache", "--stats", "--cache="],
    ],
    "assemble": [
        ["assemble", name, "--vlm", "folder", "--generator", "folder"] for name in (*NEW_FOLDERS, "empty text")
    ],
    "info": [["info", name] for name in NOT_MODELS],
    "evaluate": [
        ["evaluate"],
        ["evaluate", "a", "b"],
        ["evaluate", "--baseline", "chance", "--4bit"],
        ["evaluate", "--baseline", "most-frequent", "--num-frames", "2"],
        *(["evaluate", name] for name in NOT_MODELS),
    ],
    "compare": [
        ["compare"],
        ["compare", "--first", "a.json"],
        ["compare", "--first", "a.json", "a.json", *RESULTS[2:]],
    ],
    "sample": [["sample"], *(["sample", name, "--output", "samples"] for name in NOT_MODELS)],
    "synthesize": [["synthesize"], *(["synthesize", name, "--scenes", "1"] for name in NEW_FOLDERS)],
    "train": [["train"], *(["train", name] for name in INPUTS)],
    "train-generator": [["train-generator", name, "--stage", "vae"] for name in INPUTS],
    "analyze": [
        *(["analyze", "correspondence", name] for name in NOT_MODELS),
        *(["analyze", "choose", name] for name in INPUTS),
        ["analyze", "zzz"],
    ],
    "vega3d": [["zzz"], ["--zzz"], ["ask", "--", "--num-frames"]],
}

ASK_MODEL = [*ASK, "--model", "model"]
NO_VALUES = ("no values", "null values", "list values", "NaN values")
FILES: dict[str, tuple[list[str], dict[str, Callable[[bytes], bytes]], tuple[str, ...]]] = {
    # file -> the command that reads it, its kinds of damage, and those that do it no harm
    "model/config.json": (ASK_MODEL, BAD_JSON, ()),
    "model/processor_config.json": (ASK_MODEL, BAD_JSON, ()),
    "model/tokenizer.json": (ASK_MODEL, BAD_JSON, ()),
    "model/tokenizer_config.json": (ASK_MODEL, BAD_JSON, ("no values",)),
    "model/model.safetensors": (ASK_MODEL, DAMAGE, ()),
    "model/generator/transformer/config.json": (ASK_MODEL, BAD_JSON, ()),
    "model/generator/transformer/diffusion_pytorch_model.safetensors": (ASK_MODEL, DAMAGE, ()),
    "model/generator/vae/config.json": (ASK_MODEL, BAD_JSON, ()),
    "model/generator/vae/diffusion_pytorch_model.safetensors": (ASK_MODEL, DAMAGE, ()),
    "train.yaml": (TRAIN, BAD_YAML, ()),
    "generator.yaml": (TRAIN_GENERATOR, BAD_YAML, ()),
    "rows.jsonl": (TRAIN, BAD_JSON, ()),
    "benchmark/test.jsonl": (["evaluate", "--baseline", "chance", "--data", "benchmark"], BAD_JSON, ()),
    "a.json": (["compare", *RESULTS], BAD_JSON, ()),
    "features/vega3d_features.json": (["cache", "--stats", "--cache", "features"], BAD_JSON, ()),
    "clip.mp4": (["ask", "clip.mp4", "Q?"], DAMAGE, ()),
    "view.png": (["ask", "view.png", "Q?"], DAMAGE, ()),
}
SPECIAL = ("pipe", "socket", "folder", "loop", "device-link", "hanging-link")


def all_cases() -> list:
    """Command lines, each with a name."""
    cases = []
    for command, (valid, options) in OPTIONS.items():
        for option, values in options.items():
            cases += [
                pytest.param([*valid, option, value], id=f"{command} {option} {shown(value)}") for value in values
            ]
    for line in chain.from_iterable(ARGUMENTS.values()):
        cases.append(pytest.param(line, id=" ".join(shown(word) for word in line) or "nothing"))
    return cases


def all_damages() -> list:
    cases = []
    for file, (command, damages, harmless) in FILES.items():
        kinds = [*(name for name in damages if name not in harmless), *SPECIAL]
        cases += [pytest.param(file, kind, command, id=f"{file} {kind}") for kind in kinds]
    return cases


def shown(value: str) -> str:
    return (value if len(value) < 40 else f"{value[:20]}...{len(value)}").encode("unicode_escape").decode() or "''"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with a good file of each kind that a command reads, and one path of each special kind."""
    folder = tmp_path_factory.mktemp("world")
    special_files(folder)
    shutil.copytree(FROZEN, folder / "model")
    shutil.copyfile(example_clip("room"), folder / "clip.mp4")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "view.png")
    (folder / "scans").mkdir()
    (folder / "benchmark" / "scannet").mkdir(parents=True)
    row = {"id": 0, "dataset": "scannet", "scene_name": "a", "question_type": "object_counting"}
    row |= {"question": "How many beds?", "ground_truth": "1", "options": None}
    (folder / "benchmark" / "test.jsonl").write_text(json.dumps(row) + "\n")
    shutil.copyfile(example_clip("room"), folder / "benchmark" / "scannet" / "a.mp4")
    message = [{"role": "user", "content": "How many beds?"}, {"role": "assistant", "content": "1"}]
    (folder / "rows.jsonl").write_text(json.dumps({"id": "0", "messages": message}) + "\n")
    (folder / "train.yaml").write_text(
        "model: vega3d-tiny\ndata: rows.jsonl\noutput: trained\nsteps: 1\ndevice: cpu\n"
    )
    (folder / "generator.yaml").write_text(
        "output: world\ndevice: cpu\nrooms: {size: 64, num_frames: 5, clip_frames: 5}\n"
        "vae: {steps: 1, batch_size: 1, learning_rate: 1.0e-3}\n"
        "dit: {steps: 1, batch_size: 1, learning_rate: 1.0e-3}\n"
    )
    for name, seed in (("a.json", 0), ("b.json", 1)):
        evaluate(ChanceAnswerer(seed), question_records(2), folder / name, "vsibench", resamples=20)
    FeatureCache(folder / "features")
    return folder


def snapshot(folder: Path) -> dict[str, tuple]:
    """All that is in a folder: kinds, lengths, times, and what small files hold."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        regular = path.is_file() and not path.is_symlink()
        held = hashlib.sha256(path.read_bytes()).hexdigest() if regular and status.st_size < 100_000 else None
        when = status.st_mtime_ns if regular else None
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_size if regular else None, when, held)
    return found


def refused(arguments: list[str], capsys) -> str:
    """The one line that a command ends with; its exit code and time are checked."""
    faulthandler.dump_traceback_later(HANGS, exit=True, file=sys.__stderr__)
    began = time.monotonic()
    try:
        code = vega3d_cli.run(arguments, *simulator_of(arguments))
    finally:
        faulthandler.cancel_dump_traceback_later()
    took = time.monotonic() - began
    captured = capsys.readouterr()
    assert code == 2, f"exit code {code}: {captured.out[-300:]}{captured.err[-300:]}"
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err[-2000:]
    assert lines[0].startswith("error: ")
    assert len(lines[0]) < 3000
    assert took < SECONDS
    return lines[0]


def simulator_of(arguments: list[str]) -> tuple:
    """The application of a command that is not one of `vega3d`, and its name."""
    return (simulator.app, simulator.NAME) if arguments[:1] in (["train-generator"], ["sample"]) else ()


@pytest.fixture
def here(world, monkeypatch) -> Path:
    monkeypatch.chdir(world)
    return world


def in_place(word: str) -> str:
    """The path that a kind of `bad_values.special_files` stands for."""
    paths = {
        "empty text": "",
        "device": str(own_device()),
        "endless device": "/dev/zero",
        "under a file": "regular/x",
        "in no folder": "none/x",
        "long name": "x" * 300,
        "long path": "/".join(["x" * 200] * 30),
        "unicode in no folder": "nïché\n☃/x",
    }
    return paths.get(word, word)


@pytest.mark.parametrize("arguments", all_cases())
def test_a_bad_argument_ends_with_one_line(arguments, here, capsys):
    before = snapshot(here)

    refused([in_place(word) for word in arguments], capsys)

    assert snapshot(here) == before


@pytest.mark.parametrize(("file", "kind", "command"), all_damages())
def test_a_bad_file_ends_with_one_line(file, kind, command, here, capsys):
    path, kept = here / file, here / "kept"
    path.rename(kept)
    try:
        replace_by(path, kind, FILES[file][1], kept.read_bytes())
        before = snapshot(here)

        refused(command, capsys)

        assert snapshot(here) == before
    finally:
        remove(path)
        kept.rename(path)


def replace_by(path: Path, kind: str, damages: dict[str, Callable[[bytes], bytes]], good: bytes) -> None:
    if kind in damages:
        path.write_bytes(damages[kind](good))
        return
    scratch = path.parent / "scratch"
    scratch.mkdir()
    made = special_files(scratch)[kind]
    made.rename(path)
    if kind == "loop":
        path.unlink()
        path.symlink_to(path)
    shutil.rmtree(scratch)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def test_the_tables_have_many_cases():
    assert len(all_cases()) + len(all_damages()) >= 400
