"""The command: answers, JSON, pictures, one-line errors."""

import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image

from command_line import answer, run
from tiny_checkpoints import FROZEN, FROZEN_CONFIG, copy_frozen, save_vlm_with_processor
from tiny_models import save_generator, save_vlm
from vega3d.processing.video_vega3d import read_video
from vega3d.shipped import example_clip
from vega3d_cli import common
from vega3d_cli.common import one_line_errors

QUESTION = "Which is closer to the bed?"
NUM_FRAMES = json.loads((FROZEN / "processor_config.json").read_text())["num_frames"]
NOTICE = "Its answers mean nothing."


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    """A folder with four frames of the shipped clip."""
    folder = tmp_path_factory.mktemp("frames")
    for index, frame in enumerate(read_video(example_clip("room"), num_frames=4).frames):
        Image.fromarray(frame).save(folder / f"frame{index}.png")
    return folder


@pytest.fixture(scope="module")
def noted(tmp_path_factory) -> Path:
    """The stored checkpoint with a notice of its own."""
    return copy_frozen(tmp_path_factory.mktemp("noted") / "model", notice=NOTICE)


@pytest.mark.parametrize("error", [RuntimeError("two\nlines"), KeyError("name"), RecursionError(), EOFError("end")])
def test_whatever_a_library_raises_is_one_line(error, capsys):
    with pytest.raises(typer.Exit) as end, one_line_errors():
        raise error

    assert end.value.exit_code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {type(error).__name__}") and "--debug" in line


@pytest.mark.parametrize("place", [0, 1, 2, 4])
def test_debug_anywhere_shows_where_an_error_arose(place):
    arguments = ["ask", "none.mp4", "Where?", "--json"]

    with pytest.raises(ValueError, match=r"none\.mp4"):
        run(*arguments[:place], "--debug", *arguments[place:])
    done = run(*arguments)

    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1


def test_help_does_not_import_torch():
    code = "import sys, vega3d_cli; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


COMMANDS = (
    "ask",
    "ground",
    "act",
    "synthesize",
    "cache",
    "assemble",
    "convert",
    "train",
    "audit",
    "evaluate",
    "compare",
    "info",
    "env",
    "push",
    "demo",
)


@pytest.mark.parametrize("command", [*COMMANDS, "analyze correspondence", "analyze sweep", "analyze choose"])
def test_help_has_examples_that_can_be_copied(command):
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    examples = [line for line in lines[lines.index("Examples:") :] if line.startswith(f"    vega3d {command}")]
    assert examples and all(shlex.split(line, comments=True) for line in examples)  # no quote is cut by a wrap


def test_help_groups_the_commands_with_whole_descriptions():
    lines = run("--help").stdout.splitlines()
    panels = [line for line in lines if line in ("Ask:", "Data:", "Train:", "Measure:", "Share:")]
    assert panels == ["Ask:", "Data:", "Train:", "Measure:", "Share:"]
    assert not [line for line in lines[1:] if line.endswith("...")]
    assert {line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in COMMANDS} == {*COMMANDS}


def test_each_field_of_the_settings_of_rooms_is_an_option_with_its_words_and_default():
    from vega3d.rooms.dataset import DatasetSettings

    words = " ".join(run("synthesize", "--help").stdout.split())

    for field in dataclasses.fields(DatasetSettings):
        assert f"--{field.name.replace('_', '-')}" in words
        assert f"[default: {'videos' if field.name == 'videos' else field.default}" in words
    assert "Edge of the square frames [px], an even number from 128 to 640. [default: 192]" in words
    assert "--trajectories, --walks" in words and "train|validation|test|test_unseen" in words


def test_version_and_environment():
    assert run("--version").stdout == "vega3d 0.1.0\n"
    values = json.loads(run("env", "--json").stdout)
    assert values["torch"] == torch.__version__.partition("+")[0] or values["torch"] == torch.__version__
    assert values["vega3d"] == "0.1.0" and values["missing"]["demo"] == []
    assert "transformers" in run("env").stdout


LIGHT = {  # errors that need no torch: of paths, options, a YAML, questions
    "no such video": ["ask", "nofile.mp4", "Q?"],
    "no question": ["ask", "room", ""],
    "blank question": ["ask", "room", " "],
    "one option": ["ask", "room", "Q?", "--options", "here"],
    "both samplings": ["ask", "room", "Q?", "--num-frames", "4", "--fps", "1"],
    "a device by syntax": ["ask", "room", "Q?", "--device", "gpu"],
    "no such model": ["ask", "room", "Q?", "--model", "vega4d"],
    "no posed clip": ["ground", "nowhere", "the chair"],
    "nothing to look for": ["ground", "kitchen", " "],
    "no place for a view": ["ground", "kitchen", "the chair", "--save-view", "none/x.glb"],
    "no proposals": ["ground", "kitchen", "the chair", "--proposals", "none.json"],
    "no model for grounding": ["ground", "kitchen", "the chair", "--model", "vega4d"],
    "no task": ["act", "model", "--output", "x.mp4"],
    "no such task": ["act", "model", "push-v2", "--output", "x.mp4"],
    "no video": ["act", "model", "push-v3", "--output", "x.avi"],
    "no demonstrations": ["act", "model", "--replay", "none", "--output", "x.mp4"],
    "no model to describe": ["info", "vega4d"],
    "no YAML": ["train", "none.yaml"],
    "a bad setting": ["train", "none.yaml", "--set", "steps"],
    "a choice": ["synthesize", "x", "--split", "zzz"],
    "an odd size": ["synthesize", "x", "--size", "129"],
    "a size out of range": ["synthesize", "x", "--size", "17"],
    "a missing option": ["compare", "--first", "a", "b"],
    "no result": ["compare", "--first", "a.json", "--second", "b.json"],
    "no model to evaluate": ["evaluate"],
    "a baseline": ["evaluate", "--baseline", "luck"],
    "no questions": ["evaluate", "vega3d-tiny", "--data", "none"],
    "no questions for a baseline": ["evaluate", "--baseline", "chance", "--data", "none"],
    "no download": ["evaluate", "vega3d-tiny", "--benchmark", "vsibench"],
    "a table without a folder": ["evaluate", "vega3d-tiny", "--table", "test"],
    "no place for a result": ["evaluate", "vega3d-tiny", "--output", "none/x.json"],
    "no questions to audit": ["audit", "vega3d-tiny", "--data", "none", "--output", "x"],
    "no place for an audit": ["audit", "vega3d-tiny", "--output", "/dev/null"],
    "nothing to store": ["cache", "none"],
    "no videos": ["cache", "."],
    "a corpus without tables": ["cache", ".", "--split", "test"],
    "intrinsics": ["analyze", "sweep", "--output", "x", "--intrinsics", "1"],
    "blocks": ["cache", "x", "--block", "1,,2"],
    "actions": ["cache", "--stats", "--clear"],
    "a setting of assemble": ["assemble", "--vlm", "a", "--generator", "b", "out", "--set", "blok"],
}


FORKED = """
import json, os, sys, vega3d_cli
for name, line in json.loads(sys.argv[1]).items():
    told, child = os.path.join(sys.argv[2], name), os.fork()
    if not child:
        for place, end in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{told}.{end}", os.O_WRONLY | os.O_CREAT), place)
        print(vega3d_cli.run(line), "torch" in sys.modules, flush=True)
        sys.stderr.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Path:
    """What is said to the command lines of `LIGHT` by forks of one process that has imported the command alone."""
    empty, told = tmp_path_factory.mktemp("empty"), tmp_path_factory.mktemp("told")
    command = [sys.executable, "-c", FORKED, json.dumps(LIGHT), str(told)]
    subprocess.run(command, cwd=empty, check=True, timeout=300)
    return told


@pytest.mark.parametrize("name", LIGHT)
def test_an_error_that_needs_no_torch_imports_none(name, told):
    error = (told / f"{name}.err").read_text()
    assert (told / f"{name}.out").read_text() == "2 False\n", error
    assert error.startswith("error: ") and len(error.splitlines()) == 1


def test_the_model_is_an_argument_or_an_option():
    as_argument, as_option = run("info", FROZEN, "--json"), run("info", "--model", FROZEN, "--json")
    assert as_argument.stdout == as_option.stdout and as_option.exit_code == 0
    two = run("info", "one", "--model", "another")
    assert two.exit_code == 2 and "Two models are named" in two.stderr


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(common, "LINE_EVERY", 0)
    with common.progress("clips", "clip", 3) as advance:
        advance(1)
        advance(2)
    with common.progress("clips", "clip", 3, quiet=True) as advance:
        advance(1)

    captured = capsys.readouterr()

    assert [line.partition(" after")[0] for line in captured.err.splitlines()] == [
        "clips: 1 of 3 clips",
        "clips: 3 of 3 clips",
    ]
    assert captured.out == ""


@pytest.mark.parametrize(("after", "takes", "lines"), [(0.01, 0.5, ["loading vega3d-tiny ..."]), (1, 0, [])])
def test_loading_without_a_terminal_says_so_once_it_takes_long(after, takes, lines, monkeypatch, capsys):
    monkeypatch.setattr(common, "LOADING_AFTER", after)

    with common.loading("vega3d-tiny"):
        time.sleep(takes)
    time.sleep(1.2 * after)  # what was not called off would be said now

    assert capsys.readouterr().err.splitlines() == lines


def test_json():
    values = answer("room", QUESTION)
    assert values["question"] == QUESTION
    assert values["notice"].startswith(FROZEN_CONFIG["notice"])  # and the question is none that it was trained on
    assert len(values["frame_seconds"]) == NUM_FRAMES
    assert values["frame_seconds"][0] == 0.0
    assert values["options"] is None
    again = answer("room", QUESTION)
    times = {"seconds": 0, "loading_seconds": 0}
    assert {**again, **times} == {**values, **times}


def test_text_is_streamed_and_notes_go_to_standard_error(noted):
    arguments = ("room", QUESTION, "--max-new-tokens", "4")
    result = run("ask", *arguments, "--device", "cpu", "--model", noted)
    assert result.exit_code == 0
    told = answer(*arguments, model=noted)
    assert result.stdout.strip() == told["text"]
    assert told["notice"].startswith(NOTICE) and f"note: {NOTICE}" in result.stderr.splitlines()


def test_options_are_chosen_by_likelihood():
    values = answer("room", QUESTION, "--options", "the table", "the wardrobe", "the lamp")
    assert sum(values["options"].values()) == pytest.approx(1)
    best = max(values["options"], key=values["options"].get)
    assert values["text"] == f"{best}. {['the table', 'the wardrobe', 'the lamp']['ABC'.index(best)]}"


@pytest.mark.parametrize(
    ("sampling", "count"), [(["--num-frames", "5"], 5), (["--fps", "2"], 8), (["--num-frames", "1"], 1)]
)
def test_sampling(sampling, count):
    assert len(answer("study", QUESTION, *sampling)["frame_seconds"]) == count


def test_a_model_is_asked_about_as_many_frames_as_its_processor_says(tmp_path, frames):
    model = copy_frozen(tmp_path / "model")
    file = model / "processor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_frames": 3}))
    assert len(answer("room", QUESTION, model=model)["frame_seconds"]) == 3
    assert len(answer("room", QUESTION, "--num-frames", "5", model=model)["frame_seconds"]) == 5
    assert len(answer(frames, QUESTION, model=model)["frame_seconds"]) == 4  # images are all taken


def test_images(frames):
    assert len(answer(frames, QUESTION)["frame_seconds"]) == 4
    files = sorted(frames.iterdir())
    assert answer(*files, QUESTION)["text"] == answer(frames, QUESTION)["text"]
    assert answer(files[0], QUESTION)["frame_seconds"] is None


def test_gate_figure(tmp_path, frames):
    for visual in ("room", frames / "frame0.png"):
        picture = tmp_path / "gates.png"
        answer(visual, QUESTION, "--save-gates", picture)
        with Image.open(picture) as image:
            assert image.format == "PNG"
            assert min(image.size) > 100
        assert list(tmp_path.iterdir()) == [picture]
        picture.unlink()


def test_info():
    values = json.loads(run("info", FROZEN, "--json").stdout)
    generator = FROZEN_CONFIG["generator_config"]
    assert values["block"] == f"{generator['block']} of {generator['transformer']['num_layers']}"
    assert values["step"] == pytest.approx(generator["timestep"], abs=2)  # the schedule's nearest
    assert values["sigma"] == pytest.approx(values["step"] / 1000, abs=1e-3)
    assert values["fusion"] == "token_gated_residual"
    parts = values["parameters"]
    assert sum(parts.values()) == values["parameters_in_use"]
    from vega3d.hub.load import load_vega

    model = load_vega(FROZEN, device="cpu")[0].model
    assert parts["vlm"] == model.vlm.num_parameters()
    assert parts["generator VAE encoder"] == sum(p.numel() for p in model.generator.tower.encoder.parameters())
    text = run("info", FROZEN).stdout
    assert "generator transformer, blocks used" in text


@pytest.fixture(scope="module")
def backbones_with_processor(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("assemble")
    vlm, generator = save_vlm(folder / "vlm"), save_generator(folder / "generator")
    tiny = FROZEN
    from transformers import Qwen2_5_VLProcessor

    from vega3d import VegaProcessor

    processor: Qwen2_5_VLProcessor = VegaProcessor.from_pretrained(tiny).vlm_processor
    processor.save_pretrained(vlm)
    return vlm, generator


def test_assemble_and_describe(backbones_with_processor, tmp_path):
    vlm, generator = backbones_with_processor
    out = tmp_path / "out"
    result = run("assemble", "--vlm", vlm, "--generator", generator, out, "--block", "-2", "--set", "clip_mode=views")
    assert result.exit_code == 0, result.stderr
    values = json.loads(run("info", out, "--json").stdout)
    assert (values["block"], values["clip_mode"]) == ("1 of 3", "views")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    from transformers import AutoProcessor

    assert AutoProcessor.from_pretrained(out).generator_max_area == 832 * 480
    again = run("assemble", "--vlm", vlm, "--generator", generator, out, "--block", "1")
    assert again.exit_code == 2
    assert "is already there" in again.stderr


def test_a_qwen3_vl_is_assembled_described_and_asked(tmp_path, frames):
    vlm = save_vlm_with_processor(tmp_path / "vlm", "qwen3_vl")
    generator, out = save_generator(tmp_path / "generator"), tmp_path / "out"
    made = run("assemble", "--vlm", vlm, "--generator", generator, out, "--block", "1", "--set", "max_area=4096")
    assert made.exit_code == 0, made.stderr
    values = json.loads(run("info", out, "--json").stdout)
    assert values["vlm"] == "qwen3_vl"
    from transformers import AutoModelForImageTextToText, AutoProcessor

    assert AutoProcessor.from_pretrained(out).generator_max_area == 4096
    assert values["parameters"]["vlm"] == AutoModelForImageTextToText.from_pretrained(vlm).num_parameters()
    picture = tmp_path / "gates.png"
    for number, options in ((5, []), (1, ["--options", "the table", "the wardrobe"])):
        asked = answer("room", QUESTION, "--num-frames", number, "--save-gates", picture, *options, model=out)
        assert len(asked["frame_seconds"]) == number and picture.exists()
    assert len(answer(frames, QUESTION, model=out)["frame_seconds"]) == 4
    assert answer(frames / "frame0.png", QUESTION, model=out)["frame_seconds"] is None


@pytest.fixture(scope="module")
def small_rooms(tmp_path_factory) -> Path:
    """A data set of one room, where the benchmark `rooms` looks for its own if its home is the folder's."""
    from vega3d.evaluation.benchmarks import RoomsBenchmark
    from vega3d.rooms.dataset import DatasetSettings

    home = tmp_path_factory.mktemp("home")
    settings = DatasetSettings("test", size=128, num_frames=4)
    rooms = home / "vega3d" / "rooms" / RoomsBenchmark(settings).folder_name
    made = run("synthesize", rooms, "--split", "test", "--scenes", "1", "--size", "128", "--num-frames", "4")
    assert made.exit_code == 0, made.stderr
    assert made.stdout.strip() == str(rooms / "test.parquet")
    again = run("synthesize", rooms, "--split", "train", "--scenes", "1")
    assert again.exit_code == 2
    assert "other settings" in again.stderr
    return rooms


def test_a_data_set_is_answered_and_compared(small_rooms, tmp_path):
    results = [tmp_path / "tiny.json", tmp_path / "chance.json"]

    for result, options in zip(results, ([FROZEN], ["--baseline", "chance"]), strict=True):
        asked = run("evaluate", "--data", small_rooms, "--limit", "6", "--output", result, *options)
        assert asked.exit_code == 0, asked.stderr
        assert "macro" in asked.stdout
        values = json.loads(result.read_text())
        assert len(values["questions"]) == 6
        assert values["versions"]["vega3d"] == "0.1.0"

    compared = run("compare", "--first", results[0], "--second", results[1], "--output", tmp_path / "both.json")
    assert compared.exit_code == 0, compared.stderr

    differences = json.loads((tmp_path / "both.json").read_text())["differences"]
    assert "micro" in differences and "verdict" in differences["micro"]

    missing = run("compare", "--first", results[0], "--second", results[1], "--output", tmp_path / "none" / "x.json")
    assert missing.exit_code == 2
    assert "There is no folder" in missing.stderr


def test_batches_of_the_command_change_no_score(small_rooms, tmp_path):
    summaries = []
    model = copy_frozen(tmp_path / "model", dtype="float32")  # bfloat16 may turn a near tie
    for size in ("1", "5"):
        output = tmp_path / f"{size}.json"
        asked = run("evaluate", model, "--data", small_rooms, "--batch-size", size, "--output", output)
        assert asked.exit_code == 0, asked.stderr
        assert json.loads(output.read_text())["batch_size"] == int(size)
        summaries.append(asked.stdout)
    assert summaries[0] == summaries[1]


def test_rooms_without_a_folder_come_from_the_cache(small_rooms, tmp_path, monkeypatch):
    from huggingface_hub import constants

    from vega3d.evaluation import benchmarks
    from vega3d.evaluation.benchmarks import RoomsBenchmark
    from vega3d.rooms.dataset import DatasetSettings

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HOME", str(small_rooms.parents[2]))
    monkeypatch.setattr(benchmarks, "ROOMS", RoomsBenchmark(DatasetSettings("test", size=128, num_frames=4), 1))
    answers = []
    for model in (["--baseline", "chance"], [FROZEN, "--baseline", "blind"], [FROZEN]):
        asked = run("evaluate", *model, "--limit", "9", "--json")
        assert asked.exit_code == 0, asked.stderr
        values = json.loads(asked.stdout)
        assert (values["benchmark"], values["num_questions"], values["num_scenes"]) == ("rooms", 9, 1)
        assert "questions" not in values
        assert "micro" in values["summary"]["lmms_eval"]["figures"]
        answers.append(values)
    assert len({values["questions_sha256"] for values in answers}) == 1
    assert [values["settings"]["kind"] for values in answers] == ["chance", "blind", "model"]
    assert list(tmp_path.iterdir()) == []


def test_the_most_frequent_answers_of_a_table(small_rooms, tmp_path):
    from vega3d.evaluation.vsibench import load_vsibench

    records, _ = load_vsibench(small_rooms)
    train = tmp_path / "train.jsonl"
    rows = [
        {
            "id": record.id,
            "dataset": "elsewhere",
            "scene_name": record.scene,
            "question_type": record.question_type,
            "question": record.question,
            "ground_truth": record.answer,
            "options": record.lettered or None,
            "frame": record.frame,
            "marks": [list(mark) for mark in record.marks],
        }
        for record in records
    ]
    train.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    arguments = ["evaluate", "--data", small_rooms, "--baseline", "most-frequent", "--json"]
    asked = run(*arguments, "--train-table", train)
    assert asked.exit_code == 0, asked.stderr
    values = json.loads(asked.stdout)
    assert values["settings"]["kind"] == "most_frequent"
    assert values["settings"]["train"] == values["num_questions"] == len(records)
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert "--train-table" in refused.stderr


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def broken_model(folder: Path) -> Path:
    shutil.copytree(FROZEN, folder)
    shutil.rmtree(folder / "generator" / "vae")
    return folder


def plain_vlm(folder: Path) -> Path:
    return save_vlm(folder)


def another_vlm(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llava"}')
    return folder


def no_gate(folder: Path) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(FROZEN, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "fusion": "add"}))
    state = {key: value for key, value in load_file(folder / "model.safetensors").items() if ".fusion." not in key}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


ROOM = str(example_clip("room"))
BAD_INPUT = {
    "no question": (lambda tmp: ["ask", "room"], "Give a video or images and then a question"),
    "blank question": (lambda tmp: ["ask", "room", " "], "The question is empty"),
    "missing file": (lambda tmp: ["ask", tmp / "no.mp4", "Where?"], "no.mp4"),
    "no such clip": (lambda tmp: ["ask", "kitchen", "Where?"], "Shipped are room, study"),
    "empty file": (lambda tmp: ["ask", write(tmp / "a.mp4", b""), "Where?"], "a.mp4"),
    "text file": (lambda tmp: ["ask", write(tmp / "a.mp4", b"no video at all"), "Where?"], "a.mp4"),
    "truncated file": (
        lambda tmp: ["ask", write(tmp / "a.mp4", example_clip("room").read_bytes()[:30_000]), "Where?"],
        "a.mp4",
    ),
    "folder without images": (lambda tmp: ["ask", tmp, "Where?"], "png"),
    "no frames": (lambda tmp: ["ask", "room", "Where?", "--num-frames", "0"], "--num-frames"),
    "both samplings": (lambda tmp: ["ask", "room", "Where?", "--num-frames", "4", "--fps", "1"], "fps"),
    "one option": (lambda tmp: ["ask", "room", "Where?", "--options", "here"], "2 to 26 options, but got 1"),
    "a number and options": (
        lambda tmp: ["ask", "room", "Where?", "--number", "--options", "here", "there"],
        "--number and --options exclude each other",
    ),
    "no tokens": (lambda tmp: ["ask", "room", "Where?", "--max-new-tokens", "0"], "--max-new-tokens"),
    "no folder for the picture": (
        lambda tmp: ["ask", "room", "Where?", "--save-gates", tmp / "none" / "a.png"],
        "There is no folder",
    ),
    "no such model": (lambda tmp: ["ask", "room", "Where?", "--model", "vega4d"], "There is no model 'vega4d'"),
    "a plain VLM": (
        lambda tmp: ["ask", "room", "Where?", "--model", plain_vlm(tmp / "vlm")],
        "model_type 'qwen2_5_vl', not 'vega3d'",
    ),
    "a broken generator": (
        lambda tmp: ["ask", "room", "Where?", "--model", broken_model(tmp / "model")],
        "vae is missing",
    ),
    "no gate to save": (
        lambda tmp: ["ask", "room", "Where?", "--model", no_gate(tmp / "m"), "--save-gates", tmp / "a.png"],
        "no gate for each token",
    ),
    "no such device": (lambda tmp: ["ask", "room", "Where?", "--device", "gpu"], "'gpu' cannot be used"),
    "no backbone": (
        lambda tmp: ["assemble", "--vlm", tmp / "a", "--generator", tmp / "b", tmp / "out"],
        "neither a folder nor a Hub id",
    ),
    "another VLM": (
        lambda tmp: ["assemble", "--vlm", another_vlm(tmp / "vlm"), "--generator", "no/such", tmp / "out"],
        "The VLM is of model_type 'llava', but supported are qwen2_5_vl and qwen3_vl",
    ),
    "bad setting": (
        lambda tmp: ["assemble", "--vlm", "a", "--generator", "b", tmp / "out", "--set", "blok"],
        "is not NAME=VALUE",
    ),
    "unknown setting": (
        lambda tmp: ["assemble", "--vlm", "a", "--generator", "b", tmp / "out", "--set", "blok=1"],
        "Unknown options",
    ),
    "bad dtype": (
        lambda tmp: ["assemble", "--vlm", "a", "--generator", "b", tmp / "out", "--dtype", "int8"],
        "not one of 'auto', 'float32'",
    ),
    "no model to evaluate": (lambda tmp: ["evaluate"], "Give a model, such as vega3d-tiny"),
    "no such baseline": (
        lambda tmp: ["evaluate", "--baseline", "luck"],
        "not one of 'chance', 'most-frequent', 'blind'",
    ),
    "no such benchmark": (
        lambda tmp: ["evaluate", "--baseline", "chance", "--benchmark", "colours"],
        "not one of 'rooms', 'vsibench'",
    ),
    "VSI-Bench without its folder": (
        lambda tmp: ["evaluate", "--baseline", "chance", "--benchmark", "vsibench"],
        "Give the folder of your local download",
    ),
    "no questions": (lambda tmp: ["evaluate", "--baseline", "chance", "--data", tmp / "none"], "There is no folder"),
    "no batch": (lambda tmp: ["evaluate", "--baseline", "chance", "--batch-size", "0"], "--batch-size"),
    "no limit": (lambda tmp: ["evaluate", "--baseline", "chance", "--limit", "0"], "--limit"),
    "nowhere to write": (
        lambda tmp: ["evaluate", "--baseline", "chance", "--output", tmp / "none" / "a.json"],
        "There is no folder",
    ),
    "nothing to compare": (
        lambda tmp: ["compare", "--first", tmp / "a.json", "--second", tmp / "b.json"],
        "There is no file",
    ),
    "nothing to describe": (lambda tmp: ["info", tmp], "no config.json"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_line(name, tmp_path):
    arguments, message = BAD_INPUT[name]
    result = run(*arguments(tmp_path))
    assert result.exit_code == 2, result.stderr
    errors = [line for line in result.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1, result.stderr
    assert message in errors[0]
    assert result.stderr.endswith(errors[0] + "\n")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_failed_assembly_leaves_nothing_behind(backbones_with_processor, tmp_path):
    vlm, generator = backbones_with_processor
    bare = tmp_path / "bare"
    shutil.copytree(vlm, bare, ignore=shutil.ignore_patterns("*processor*", "token*", "chat*"))
    out = tmp_path / "made" / "out"
    result = run("assemble", "--vlm", bare, "--generator", generator, out, "--block", "1")
    assert result.exit_code == 2
    assert not out.exists()
    result = run("assemble", "--vlm", vlm, "--generator", generator, out, "--block", "7")
    assert result.exit_code == 2
    assert "block=7" in result.stderr


def test_the_installed_command_runs_as_a_process():
    command = Path(sys.executable).with_name("vega3d")
    arguments = ["ask", ROOM, QUESTION, "--options", "the table", "the wardrobe", "--4bit", "--device", "cpu"]
    result = subprocess.run([command, *arguments, "--model", FROZEN], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in ("A. the table", "B. the wardrobe")
    assert torch.cuda.is_available() or "Traceback" not in result.stderr


@pytest.mark.parametrize("output", ["folder", "frame0.png", "missing/gates.png", ""])
def test_a_place_that_gates_cannot_go_to_is_refused_before_the_model(tmp_path, frames, output):
    (tmp_path / "folder").mkdir()
    target = frames / output if output.endswith(".png") and "/" not in output else output and tmp_path / output
    content = (frames / "frame0.png").read_bytes()

    result = run("ask", frames, QUESTION, "--model", tmp_path / "no-model", "--save-gates", target)

    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert "no-model" not in result.stderr
    assert (frames / "frame0.png").read_bytes() == content


def test_a_question_that_it_was_not_trained_on_is_told_so():
    known = run("ask", "study", "How many desk(s) are in this room?", "--number", "--model", FROZEN)
    other = run("ask", "study", "Where is the lamp?", "--model", FROZEN)
    values = answer("study", "Where is the lamp?")

    assert known.exit_code == 0 and "means nothing" not in known.stderr
    (note,) = [line for line in other.stderr.splitlines() if "means nothing" in line]
    assert '"Where is the lamp, from the first frame?"' in note
    assert note.removeprefix("note: ") in values["notice"]


def test_a_small_model_in_4_bits_is_told_so():
    result = run("ask", "room", "How many picture(s) are in this room?", "--number", "--4bit", "--model", FROZEN)

    assert "note: A language model of 32 channels loses its words in 4 bits." in result.stderr
