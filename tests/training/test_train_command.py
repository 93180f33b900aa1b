import json
import shutil

import pytest
from PIL import Image
from training_data import RATES, trained_parameters

import command_line
from tiny_checkpoints import FROZEN
from vega3d.training import DataSource, TrainingConfig, make_config, read_config

BASE = {"model": str(FROZEN), "data": "rooms", "output": "out"}
CONFIG = """
model: {FROZEN}
data: {{path: {data}}}
eval_data: [{data}]
output: {output}
tune: [gate, projector]
learning_rates: {{gate: 1e-2, projector: 3e-3}}
steps: 4
eval_steps: 2
save_steps: 2
batch_size: 2
num_frames: 2
device: cpu
"""


def run(*arguments):
    return command_line.run("train", *arguments)


@pytest.fixture
def config(talk, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(FROZEN=FROZEN, data=talk, output=tmp_path / "out"))
    return path


def test_a_run_leaves_a_model_results_and_curves(config, tmp_path):
    result = run(config, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    written = json.loads((tmp_path / "out" / "training.json").read_text())
    assert {name: value for name, value in written.items() if name != "log"} == told
    assert told["settings"]["seed"] == 0 and told["versions"]["vega3d"] and told["steps"] == 4
    assert told["trainable_parameters"] == trained_parameters()
    assert [entry["step"] for entry in written["log"] if "loss" in entry] == [1, 2, 3, 4]
    assert [entry["step"] for entry in written["log"] if "eval_loss" in entry] == [2, 4]
    with Image.open(tmp_path / "out" / "training.png") as picture:
        assert picture.width > 600
    command = ["ask", "room", "Where?", "--num-frames", "2", "--json", "--model", str(tmp_path / "out")]
    answer = command_line.run(*command, "--max-new-tokens", "2", "--device", "cpu")
    assert answer.exit_code == 0, answer.stderr

    again = run(config)  # the run is at its end, so nothing is trained
    assert again.exit_code == 0, again.stderr
    assert "step" not in again.stderr
    assert f"{told['loss_first']:.4f} -> {told['loss_last']:.4f}" in again.stdout

    other = run(config, "--set", "seed=1")
    assert other.exit_code == 2
    assert other.stderr.count("\n") == 1 and "seed was 0 and is 1" in other.stderr


def test_a_run_tells_its_steps(config):
    result = run(config, "--set", "steps=2", "--set", "eval_data=[]")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count(f"{sum(trained_parameters().values()):,} parameters are trained") == 1
    assert "step 1 of 2: loss" in result.stderr and "step 2 of 2: loss" in result.stderr


def test_four_bits_are_merged_into_the_whole_weights(config, tmp_path):
    settings = ["tune=gate,llm-lora", "learning_rates={}", "four_bit=true", "steps=2", "eval_data=[]"]
    result = run(config, *(word for setting in settings for word in ("--set", setting)))
    assert result.exit_code == 0, result.stderr
    from safetensors.torch import load_file

    before = load_file(FROZEN / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in before.items()} == {n: t.dtype for n, t in after.items()}
    moved = {name for name, tensor in before.items() if not tensor.equal(after[name])}
    assert any("fusion" in name for name in moved) and any("q_proj" in name for name in moved)
    assert not any(("norm" in name and "fusion" not in name) or "embed" in name for name in moved)


def test_bfloat16_weights_are_trained_in_float32_and_saved_as_they_came(config, tmp_path):
    result = run(config, "--set", "dtype=bfloat16", "--set", "steps=2", "--set", "eval_data=[]")
    assert result.exit_code == 0, result.stderr
    import torch
    from safetensors.torch import load_file

    trained = load_file(tmp_path / "out" / "checkpoints" / "checkpoint-2" / "trained.safetensors")
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}
    saved = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in saved.items():
        assert tensor.dtype == (torch.float32 if name.endswith("residual_scale") else torch.bfloat16), name


def test_gradient_checkpointing_gives_the_same_losses(config, tmp_path):
    losses = []
    for number, on in enumerate(("false", "true")):
        output = tmp_path / f"run{number}"
        settings = [f"gradient_checkpointing={on}", f"output={output}", "eval_data=[]", "tune=gate,llm"]
        settings += ["learning_rates={}", "steps=2"]
        result = run(config, *(word for setting in settings for word in ("--set", setting)))
        assert result.exit_code == 0, result.stderr
        log = json.loads((output / "training.json").read_text())["log"]
        losses.append([entry["loss"] for entry in log])
    assert losses[0] == losses[1]


def test_a_stream_is_trained_on(config, talk, tmp_path):
    settings = ["streaming=true", "shuffle_buffer=4", "eval_data=[]", "steps=2", "workers=1"]
    result = run(config, *(word for setting in settings for word in ("--set", setting)))
    assert result.exit_code == 0, result.stderr
    assert len(json.loads((tmp_path / "out" / "training.json").read_text())["log"]) == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("tunes=gate", "There is no setting 'tunes'. Did you mean 'tune'?"),
        ("tune=gates", "There is no part 'gates'"),
        ("data=nowhere", "There is no data nowhere"),
        ("model=nowhere", "There is no model 'nowhere'"),
        ("steps=0", "steps is 0, but must be at least 1"),
        ("lora_targets=to_q", "lora_targets"),
    ],
)
def test_errors_are_one_line_before_anything_is_written(config, tmp_path, setting, message):
    changes = ["--set", setting]
    if setting.startswith("lora"):
        changes += ["--set", "tune=llm-lora", "--set", "learning_rates={}", "--set", 'lora_targets=".*to_q"']
    result = run(config, *changes)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("error:")]) == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_video_in_a_worker_is_one_line(config, talk, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(talk.parent, folder)
    (folder / "clip1.mp4").write_bytes(b"no video")
    result = run(config, "--set", f"data={folder / 'talk.jsonl'}", "--set", "workers=1", "--set", "eval_data=[]")
    assert result.exit_code == 2
    assert "has a video or image that cannot be used" in result.stderr and "Traceback" not in result.stderr


def test_configs_of_either_kind(tmp_path):
    written = "model: m\ndata: [{path: rooms, split: test}, talk.jsonl]\noutput: o\nwarmup: 1e-1\n"
    (tmp_path / "a.yaml").write_text(written)
    (tmp_path / "a.json").write_text(
        '{"model": "m", "data": [{"path": "rooms", "split": "test"}, "talk.jsonl"], "output": "o", "warmup": 0.1}'
    )
    first, second = read_config(tmp_path / "a.yaml"), read_config(tmp_path / "a.json")
    assert first == second and isinstance(first, TrainingConfig)
    assert first.data == (DataSource("rooms", "test"), DataSource("talk.jsonl")) and first.warmup == 0.1
    assert read_config(tmp_path / "a.json", {"tune": "llm-lora, gate"}).tune == ("llm-lora", "gate")
    assert make_config({**BASE, "learning_rates": {"gate": RATES["gate"]}}).learning_rates == {"gate": 1e-2}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": None}, "does not say model"),
        ({"steps": 1.5}, "steps is 1.5, but must be a whole number"),
        ({"steps": True}, "steps is True"),
        ({"weight_decay": "much"}, "weight_decay is 'much', but must be a number"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm is nan"),
        ({"dtype": "int8"}, r"dtype is 'int8', but must be one of \['auto'"),
        ({"data": []}, "nothing to train on"),
        ({"data": {"file": "x"}}, r"There is no setting 'data\[0\].file'. Settings are path, split"),
        ({"data": 3}, "data is 3, but must be a path, or hold path"),
        ({"data": ["rooms", {"split": "test"}]}, r"does not say data\[1\].path"),
        ({"tune": 3}, "tune is 3, but must be a list"),
        ({"learning_rates": {"vision": 1e-5}}, "not among the parts tuned"),
        ({"learning_rates": 1e-3}, "learning_rates is 0.001, but must hold names with values"),
        ({"learning_rates": {"gate": "fast"}}, "learning_rates.gate is 'fast', but must be a number"),
        ({"steps": 5, "epochs": 1}, "give one of them"),
        ({"streaming": True}, "give steps"),
        ({"four_bit": True}, "four_bit is for training with llm-lora"),
        ({"save_steps": 5, "logging_steps": 2}, "multiple of logging_steps"),
        ({"save_total_limit": 1}, "at least 2"),
        ({"warmup": 1.0}, "below 1"),
        ({"lora_alpha": 0}, "above 0"),
        ({"cache": 3}, "cache is 3, but must be a path"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        make_config({**BASE, **values})


@pytest.mark.parametrize(("text", "message"), [(": [", "cannot be read"), ("- 1", "no names with values")])
def test_files_that_are_no_config(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path / "c.yaml")
    with pytest.raises(ValueError, match="cannot be read"):
        read_config(tmp_path / "none.yaml")
