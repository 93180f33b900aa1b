"""Commands and loaders x kinds of bad value: one line, exit code 2, nothing left behind, no file of the user touched.

The tables below name for each option and each file what it may not be; `bad_values.py` says what the kinds are. A new
command or option gets its line here. The commands of the study have their own tables, beside them.
"""

import json
import shutil
import tarfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bad_commands import Files, Options, argument_cases, check_argument, check_file, file_cases
from bad_values import (
    BAD_JSON,
    BAD_YAML,
    COUNT,
    DAMAGE,
    DEVICES,
    INPUTS,
    INTEGER,
    NAMES,
    NEW_FOLDERS,
    NOT_MODELS,
    OUTPUTS,
    POSITIVE,
    SEED,
    special_files,
)
from evaluation.evaluation_data import question_records
from robotics.demonstration_data import CAMERAS, write_toy
from tiny_checkpoints import FROZEN, save_policy
from vega3d.evaluation.answerers import ChanceAnswerer
from vega3d.evaluation.run import evaluate
from vega3d.features.cache import FeatureCache
from vega3d.hub.assemble import add_grounding
from vega3d.hub.load import load_vega
from vega3d.shipped import example_clip

LIST_OF_COUNTS = ("", "abc", "1,,2", "1.5", "1,1", "nan", "999", ",")
WORDS = NAMES[1:]

RESULTS = ["--first", "a.json", "--second", "b.json"]
ASK = ["ask", "room", "Is there a bed in this room?"]
TRAIN = ["train", "train.yaml"]
REPLAY = ["act", "policy", "--replay", "toy"]
PUSH = ["push", "coded", "org/mine", "--license", "mit", "--dry-run"]
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

OPTIONS: Options = {
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
    "ground": (
        ["ground", "kitchen", "the chair", "--model", "grounding"],
        {
            "--proposals": INPUTS,
            "--num-frames": COUNT,
            "--clip": NAMES,
            "--layout": NAMES[:3],
            "--intrinsics": SHARED_ANALYSIS["--intrinsics"],
            "--save-view": (*OUTPUTS, "clip.mp4"),
            "--save-picture": (*OUTPUTS, "view.png"),
            "--model": NOT_MODELS,
            "--device": DEVICES,
        },
    ),
    "act": (
        [*REPLAY, "--output", "film.mp4"],
        {
            "--replay": INPUTS,
            "--episode": (*INTEGER, "-1", "1"),
            "--execute": COUNT,
            "--size": COUNT,
            "--episodes": COUNT,
            "--most-steps": (*COUNT, "501"),
            "--seed": SEED,
            "--renderer": NAMES,
            "--device": DEVICES,
        },
    ),
    "cache": (
        ["cache", "clip.mp4", "--cache", "features"],
        {
            "--shard": ("2/2", "0/0", "-1/2", "1", "a/b", "0/2/2"),
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
    "convert": (["convert", "folder", "out"], {"--generator": NOT_MODELS}),
    "info": (["info", "--model"], {}),
    "evaluate": (
        ["evaluate", "model", "--limit", "1", "--data", "benchmark"],
        {
            "--benchmark": NAMES,
            "--data": INPUTS,
            "--table": NAMES,
            "--baseline": NAMES,
            "--train-table": INPUTS,
            "--harness-parser": NAMES,
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
    "audit": (
        ["audit", "model", "--data", "scenes", "--output", "audited"],
        {
            "--data": INPUTS,
            "--scenes": (*COUNT, "1"),
            "--questions-per-scene": COUNT,
            "--num-frames": COUNT,
            "--seed": SEED,
            "--workers": COUNT,
            "--output": NEW_FOLDERS,
            "--device": DEVICES,
            "--cache": NEW_FOLDERS,
        },
    ),
    "compare": (
        ["compare", *RESULTS],
        {"--scoring": NAMES, "--output": (*OUTPUTS, "a.json", "b.json", "./a.json"), "--first": INPUTS},
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
                *(
                    f'data={{"path":"{path}",{option}}}'
                    for path in ("rows.jsonl", "spar.json", "shard.tar", "scans", "org/none")
                    for option in (
                        '"format":"zzz"',
                        '"format":1',
                        '"media_root":"none"',
                        '"media_root":"pipe"',
                        '"x":1',
                    )
                ),
                *(f'data={{"path":"{path}"}}' for path in ("none.tar", "none-*.tar", "scans/*.tar", "clip.mp4")),
                'data={"path":"rows.jsonl","format":"spar"}',
                'data={"path":"spar.json","format":"vlm3r","media_root":"."}',
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
    "analyze correspondence": (
        ["analyze", "correspondence", "model", "--data", "scans"],
        {**SHARED_ANALYSIS, "--output": OUTPUTS, "--voxel": POSITIVE},
    ),
    "analyze probe": (
        ["analyze", "probe", "model", "--data", "scans", "--train-data", "scans"],
        {"--train-data": INPUTS, "--train-clips": COUNT, "--output": OUTPUTS, "--views": COUNT},
    ),
    "analyze sweep": (
        ["analyze", "sweep", "model", "--data", "scans", "--output", "sweep"],
        {"--output": NEW_FOLDERS, "--voxel": POSITIVE, "--timestep": LIST_OF_COUNTS, "--train-clips": COUNT},
    ),
    "analyze choose": (
        ["analyze", "choose", "folder"],
        {"--against": ("", "zzz", "=", "a=", "a=pipe", "a=none"), "--output": OUTPUTS, "--mode": NAMES[:3]},
    ),
    "push": (
        PUSH,
        {
            "--results": INPUTS,
            "--license": ("", "Ünïcode", "a/b/c", "../..", "[]", "x" * 5000),
            "--revision": ("", "Ünïcode/☃ b", "../..", "[]", "x" * 5000),
            "--message": ("", " "),
            "--eval-dataset": ("", "zzz", "rooms=", "rooms=a", "zzz=a/b", "rooms=a/b"),
            "--zzz": ("1",),
        },
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
    "serve": (
        ["serve"],
        {
            "--port": (*COUNT, "65536"),
            "--host": ("", "zzz.invalid", "256.256.256.256", "1.2.3.4", "Ünïcode"),
            "--allow-host": ("", "http://demo.example.org", "a b", "a:80"),
            "--files-root": tuple(kind for kind in INPUTS if kind != "folder"),
            "--api-key": ("", "two words", "Ünïcode"),
            "--api-key-file": (*INPUTS, "view.png"),
            "--max-body": COUNT,
            "--max-requests": COUNT,
            "--cache-size": COUNT,
            "--num-frames": COUNT,
            "--fps": POSITIVE,
            "--dtype": NAMES,
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
    "ground": [
        ["ground"],
        ["ground", "kitchen"],
        ["ground", "kitchen", "the chair", "--model", "model"],  # not made for grounding
        *(["ground", name, "the chair"] for name in INPUTS),
    ],
    "act": [
        ["act"],
        REPLAY,  # no output
        ["act", "model", *REPLAY[2:], "--output", "film.mp4"],  # no policy
        *([*REPLAY, "--output", name] for name in (*OUTPUTS, "clip.mp4")),
        *(["act", name, *REPLAY[2:], "--output", "film.mp4"] for name in NOT_MODELS),
        *(["act", "policy", task, "--output", "film.mp4"] for task in NAMES),
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
    "convert": [
        ["convert"],
        *(["convert", "folder", name] for name in NEW_FOLDERS),
        *(["convert", name, "out"] for name in NOT_MODELS),
    ],
    "info": [["info", name] for name in NOT_MODELS],
    "push": [
        ["push"],
        ["push", "coded"],
        ["push", "coded", "org/mine", "--dry-run"],  # no licence
        ["push", "coded", "org/mine", "--license", "mit"],  # the tests may not reach a Hub
        ["push", "coded", "org/mine", "--dataset", "--space"],
        ["push", "coded", "org/mine", "--dataset", "--license", "mit"],
        ["push", "coded", "org/mine", "--license", "mit", "--create-pr", "--private"],
        ["push", "coded", "org/mine", "--license", "mit", "--create-pr", "--revision", "other"],
        ["push", "coded", "org/demo", "--space", "--dry-run"],
        *(["push", "coded", name, "--license", "mit"] for name in ("", "mine", "a/b/c", "../..", "o/..", "Ünïcode/x")),
        *(["push", name, *PUSH[2:]] for name in (*NOT_MODELS, "model")),  # it has no code
        *(["push", name, "org/mine", "--dataset", "--dry-run"] for name in NOT_MODELS),
        *(["push", name, "org/mine", "--space", "--dry-run"] for name in NOT_MODELS if name != "org/none"),
    ],
    "evaluate": [
        ["evaluate"],
        ["evaluate", "a", "b"],
        ["evaluate", "--baseline", "chance", "--4bit"],
        ["evaluate", "--baseline", "most-frequent", "--num-frames", "2"],
        ["evaluate", "--from", "a.json", "--limit", "1"],
        ["evaluate", "--from", "a.json", "--harness-parser", "zzz"],
        *(["evaluate", "--from", name] for name in INPUTS),
        *(["evaluate", name] for name in NOT_MODELS),
    ],
    "audit": [
        ["audit"],
        ["audit", "model"],
        ["audit", "model", "--data", "benchmark", "--output", "audited"],
        ["audit", "a", "b", "--output", "audited"],
        *(["audit", name, "--output", "audited"] for name in NOT_MODELS),
    ],
    "compare": [
        ["compare"],
        ["compare", "--first", "a.json"],
        ["compare", "--first", "a.json", "a.json", *RESULTS[2:]],
    ],
    "synthesize": [["synthesize"], *(["synthesize", name, "--scenes", "1"] for name in NEW_FOLDERS)],
    "train": [["train"], *(["train", name] for name in INPUTS)],
    "analyze": [
        *(["analyze", "correspondence", name] for name in NOT_MODELS),
        *(["analyze", "choose", name] for name in INPUTS),
        ["analyze", "zzz"],
    ],
    "serve": [
        *(["serve", name] for name in NOT_MODELS),
        ["serve", "a", "--model", "b"],
        ["serve", "--api-key", "a", "--api-key-file", "train.yaml"],
        ["serve", "--num-frames", "2", "--fps", "1"],
    ],
    "vega3d": [["zzz"], ["--zzz"], ["ask", "--", "--num-frames"]],
}

ASK_MODEL = [*ASK, "--model", "model"]
NO_VALUES = ("no values", "null values", "list values", "NaN values")
FILES: Files = {
    "model/config.json": (ASK_MODEL, BAD_JSON, ()),
    "model/processor_config.json": (ASK_MODEL, BAD_JSON, ()),
    "model/tokenizer.json": (ASK_MODEL, BAD_JSON, ()),
    "model/tokenizer_config.json": (ASK_MODEL, BAD_JSON, ("no values",)),
    "model/model.safetensors": (ASK_MODEL, DAMAGE, ()),
    "model/generator/transformer/config.json": (ASK_MODEL, BAD_JSON, ()),
    "model/generator/transformer/diffusion_pytorch_model.safetensors": (ASK_MODEL, DAMAGE, ()),
    "model/generator/vae/config.json": (ASK_MODEL, BAD_JSON, ()),
    "model/generator/vae/diffusion_pytorch_model.safetensors": (ASK_MODEL, DAMAGE, ()),
    **{
        f"coded/{name}": (PUSH, damages, harmless)
        for name, damages, harmless in (
            ("config.json", BAD_JSON, ()),
            ("processor_config.json", BAD_JSON, ()),
            ("model.safetensors", DAMAGE, ()),
            ("generator/vae/diffusion_pytorch_model.safetensors", DAMAGE, ()),
        )
    },
    "train.yaml": (TRAIN, BAD_YAML, ()),
    "rows.jsonl": (TRAIN, BAD_JSON, ()),
    "spar.json": ([*TRAIN, "--set", "data=spar.json"], BAD_JSON, ()),
    "shard.tar": ([*TRAIN, "--set", "data=shard.tar"], DAMAGE, ()),
    "benchmark/test.jsonl": (["evaluate", "--baseline", "chance", "--data", "benchmark"], BAD_JSON, ()),
    "a.json": (["compare", *RESULTS], BAD_JSON, ()),
    "features/vega3d_features.json": (["cache", "--stats", "--cache", "features"], BAD_JSON, ()),
    "clip.mp4": (["ask", "clip.mp4", "Q?"], DAMAGE, ()),
    "view.png": (["ask", "view.png", "Q?"], DAMAGE, ()),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with a good file of each kind that a command reads, and one path of each special kind."""
    folder = tmp_path_factory.mktemp("world")
    special_files(folder)
    shutil.copytree(FROZEN, folder / "model")
    add_grounding(FROZEN, folder / "grounding")
    save_policy(folder / "policy", CAMERAS, 3, 2)
    write_toy(folder / "toy", 1)
    for part in load_vega(FROZEN, device="cpu"):
        part.save_pretrained(folder / "coded")
    shutil.copyfile(example_clip("room"), folder / "clip.mp4")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "view.png")
    (folder / "scans").mkdir()
    (folder / "benchmark" / "scannet").mkdir(parents=True)
    row = {"id": 0, "dataset": "scannet", "scene_name": "a", "question_type": "object_counting"}
    row |= {"question": "How many beds?", "ground_truth": "1", "options": None}
    (folder / "benchmark" / "test.jsonl").write_text(json.dumps(row) + "\n")
    shutil.copyfile(example_clip("room"), folder / "benchmark" / "scannet" / "a.mp4")
    (folder / "scenes" / "scannet").mkdir(parents=True)
    rows = [{**row, "id": number, "scene_name": name} for number, name in enumerate("ab")]
    (folder / "scenes" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in "ab":
        shutil.copyfile(example_clip("room"), folder / "scenes" / "scannet" / f"{name}.mp4")
    message = [{"role": "user", "content": "How many beds?"}, {"role": "assistant", "content": "1"}]
    (folder / "rows.jsonl").write_text(json.dumps({"id": "0", "messages": message}) + "\n")
    mark = json.dumps({"type": "spatial_volume_infer", "red_bbox": [[0, 0, 9, 9]]})
    turns = [{"from": "human", "value": "<image>How large?"}, {"from": "gpt", "value": "1"}]
    spar = {"id": "0", "conversations": turns, "images": ["view.png"], "spar_info": mark}
    (folder / "spar.json").write_text(json.dumps(spar) + "\n")
    with tarfile.open(folder / "shard.tar", "w") as shard:
        for number in range(12):  # more than the half that is left of it
            shard.add(folder / "rows.jsonl", f"{number}.json")
    (folder / "train.yaml").write_text("model: model\ndata: rows.jsonl\noutput: trained\nsteps: 1\ndevice: cpu\n")
    for name, seed in (("a.json", 0), ("b.json", 1)):
        evaluate(ChanceAnswerer(seed), question_records(2), folder / name, "vsibench", resamples=20)
    FeatureCache(folder / "features")
    return folder


@pytest.fixture
def here(world, monkeypatch) -> Path:
    monkeypatch.chdir(world)
    return world


@pytest.mark.parametrize("arguments", argument_cases(OPTIONS, chain.from_iterable(ARGUMENTS.values())))
def test_a_bad_argument_ends_with_one_line(arguments, here, capsys):
    check_argument(arguments, here, capsys)


@pytest.mark.parametrize(("file", "kind"), file_cases(FILES))
def test_a_bad_file_ends_with_one_line(file, kind, here, capsys):
    check_file(here / file, kind, FILES, here, capsys)


def test_the_tables_have_many_cases():
    assert len(argument_cases(OPTIONS, chain.from_iterable(ARGUMENTS.values()))) + len(file_cases(FILES)) >= 400
