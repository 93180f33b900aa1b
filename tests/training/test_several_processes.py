"""Two processes of `accelerate launch`, with gloo: DDP and FSDP2 against one process, and one that is killed.

One launch does all of it (`several_jobs.py`) and writes down what happened, which the tests look at.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from packaging.version import Version
from safetensors.torch import load_file
from several_jobs import BATCHES, DIES, TUNES, trained
from training_data import run_config, run_training, trainer_for

from tiny_checkpoints import FROZEN
from vega3d.hub.load import load_vega
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.training.checkpoints import Batches, check_batches, damage, load_trained, trained_parameters
from vega3d.training.run import save_whole, with_weights
from vega3d.training.several import one_error, wrong_of_deepspeed, wrong_of_fsdp

RECIPES = Path(__file__).parents[2] / "recipes" / "accelerate"
# Two processes add up gradients in another order than one, which float32 rounds, and four steps carry on. Losses are
# about 7; without the mean over processes, or with other rows, they differ by more than 1e-2 from the second step on.
SAME_LOSS = {"rel": 2e-5}
SAME_NORM = {"rel": 2e-3}
GLOO_HAS_MEANS = Version(torch.__version__) >= Version("2.9")  # torch 2.8 adds up FSDP2's gradients with gloo alone


def launch(config: str, *arguments: object) -> subprocess.CompletedProcess:
    command = ["accelerate.commands.launch", "--config_file", RECIPES / config, "--main_process_port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-m", *map(str, (*command, *arguments))]
    return subprocess.run(line, capture_output=True, text=True, timeout=600, env=environment)


@pytest.fixture(scope="module")
def launched(talk, tmp_path_factory):
    """Folder, what each of two processes wrote down, and how their launcher ended."""
    output = tmp_path_factory.mktemp("several")
    done = launch("fsdp2.yaml", Path(__file__).with_name("several_jobs.py"), talk, output)
    written = [output / f"rank{rank}.json" for rank in range(2)]
    assert all(file.is_file() for file in written), done.stderr[-6000:]
    return output, [json.loads(file.read_text()) for file in written], done


@pytest.fixture(scope="module")
def alone(talk, tmp_path_factory):
    """The same with one process, which takes the two batches of a step one after the other."""
    output = tmp_path_factory.mktemp("alone")
    kinds = {kind: trained(talk, output / kind, tune, gradient_accumulation_steps=2) for kind, tune in TUNES.items()}
    return output, kinds


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
@pytest.mark.parametrize("kind", TUNES)
def test_two_processes_train_as_one_does(launched, alone, way, kind):
    _, (first, second), _ = launched
    expected = alone[1][kind]

    ours = first[way][kind]

    steps = zip(ours["rows"], second[way][kind]["rows"], strict=True)
    assert [ids for step in steps for ids in step] == expected["rows"]
    losses = [(one + other) / 2 for one, other in zip(ours["losses"], second[way][kind]["losses"], strict=True)]
    assert losses == pytest.approx(expected["losses"], **SAME_LOSS)
    if way == "ddp" or GLOO_HAS_MEANS:  # otherwise gradients are twice as large, which clipping hides from the losses
        assert ours["norms"] == pytest.approx(expected["norms"], **SAME_NORM)
    assert ours["scales"] == pytest.approx(expected["scales"], rel=1e-4)


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
@pytest.mark.parametrize("kind", TUNES)
def test_chosen_parts_move_and_all_else_stays(launched, alone, way, kind):
    _, processes, _ = launched
    for entries in processes:
        ours = entries[way][kind]
        assert ours["frozen_that_moved"] == [] and ours["still"] == alone[1][kind]["still"]
        assert ours["in_optimizer"] == ours["chosen"] == alone[1][kind]["chosen"]
        assert ours["generator"] == alone[1][kind]["generator"]


@pytest.mark.parametrize("kind", TUNES)
def test_fsdp_cuts_all_but_the_generator(launched, kind):
    _, processes, _ = launched
    for entries in processes:
        parameters = entries["fsdp"][kind]["parameters"]
        whole, cut = parameters.pop("None")  # the generator belongs to no part
        assert whole > 0 and cut == 0
        assert all(whole == 0 and cut > 0 for whole, cut in parameters.values()), parameters


def test_a_run_with_fsdp_is_continued_exactly(launched):
    _, processes, _ = launched
    for entries in processes:
        assert entries["fsdp"]["continued"]["losses"] == entries["fsdp"]["full"]["losses"]
        assert entries["fsdp"]["continued"]["rows"] == entries["fsdp"]["full"]["rows"][2:]


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_checkpoint_of_two_processes_is_continued_by_one(launched, alone, talk, tmp_path, way):
    output, _, _ = launched
    shutil.copytree(output / way / "full" / "checkpoint-2", tmp_path / "checkpoint-2")
    names = {file.name for file in (tmp_path / "checkpoint-2").iterdir()}
    assert names >= {"trained.safetensors", "optimizer.pt", "rng_state_0.pth", "rng_state_1.pth", "batches.json"}
    assert not [name for name in names if name.startswith(("model", "pytorch_model", "optimizer_", "global_step"))]

    ours = trained(talk, tmp_path, TUNES["full"], resume="checkpoint-2", gradient_accumulation_steps=2)

    assert ours["losses"][2:] == pytest.approx(alone[1]["full"]["losses"][2:], **SAME_LOSS)
    assert ours["rows"] == alone[1]["full"]["rows"][4:]


def test_a_model_saved_by_fsdp_is_whole(launched, talk, tmp_path):
    output, _, _ = launched
    folder = output / "fsdp" / "full" / "whole"
    code = {file.name for file in folder.glob("*.py")}
    assert "modeling_vega3d.py" in code and all(name.endswith("_vega3d.py") for name in code)
    saved = trained_parameters(VegaForSpatialReasoning.from_pretrained(folder))
    trainer = trainer_for(talk, tmp_path, TUNES["full"], 1)

    load_trained(trainer.model, output / "fsdp" / "full" / "checkpoint-4")

    for name, parameter in trained_parameters(trainer.model).items():
        assert saved[name].shape == parameter.shape and saved[name].equal(parameter), name


def test_the_result_of_shared_weights_is_that_of_one_process(talk, tmp_path):
    """As the first process writes it after FSDP2: of a model loaded anew, with the weights of all."""
    config = run_config(talk, tmp_path / "run", steps=1, save_steps=1)
    run_training(config)
    tensors = load_file(tmp_path / "run" / "checkpoints" / "checkpoint-1" / "trained.safetensors")

    wrapped = with_weights(tensors, config, lambda device: load_vega(FROZEN, False, device, "float32"), None)
    save_whole(wrapped, load_vega(FROZEN, device="cpu")[1], tmp_path / "again")

    for file in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "run" / file).read_bytes()


def test_other_visuals_on_another_process_are_refused_with_fsdp(launched):
    _, processes, _ = launched
    for entries in processes:
        [refusal] = entries["fsdp"]["refusals"]
        assert "other visuals in one step (process 0: video, process 1: none" in refusal


def test_a_killed_process_ends_the_others_and_leaves_whole_files(launched):
    output, _, done = launched

    assert done.returncode != 0 and "SIGKILL" in done.stderr
    told = (output / "dead" / "survivor.txt").read_text()
    assert told.startswith("Another process of the run has ended without a word")
    [checkpoint] = (output / "dead").glob("checkpoint-*")
    assert checkpoint.name == f"checkpoint-{DIES['step'] - 1}" and damage(checkpoint) is None
    assert not list((output / "dead").rglob("*.partial"))


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (Batches(1, 4, 1), None),
        (Batches(4, 1, 1), None),
        (Batches(1, 2, 1), r"8 rows a step|4 rows a step.*2 rows: .*Set gradient_accumulation to 2, or continue"),
        (Batches(3, 1, 1), r"Set the three so that they make 4 rows"),
        (Batches(1, 2, 2, is_stream=True), r"a stream shares out its rows by these"),
        (Batches(2, 2, 1, is_deepspeed=True), r"with DDP or FSDP, and here .*Continue with DDP or FSDP and 2 process"),
    ],
)
def test_another_number_of_processes_gets_the_same_rows_or_is_told_why_not(tmp_path, now, message):
    before = Batches(2, BATCHES["per_device_train_batch_size"], 1)
    if message is None:
        check_batches(before, now, tmp_path)
        return
    with pytest.raises(ValueError, match=message):
        check_batches(before, now, tmp_path)


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2"])
def test_configs_are_those_of_accelerate(name):
    file = RECIPES / f"{name}.yaml"
    config = load_config_from_file(str(file))

    assert config.num_processes == 2 and config.mixed_precision == "no"
    kind = {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(name, "DEEPSPEED")
    assert config.distributed_type.value == kind
    values = yaml.safe_load(file.read_text())
    given = {**values.get("fsdp_config", {}), **values.get("deepspeed_config", {})}
    assert {**config.fsdp_config, **config.deepspeed_config} == given


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"fsdp_version": 2, "cpu_ram_efficient_loading": False}, []),
        ({"fsdp_version": 2, "cpu_ram_efficient_loading": True}, ["fsdp_cpu_ram_efficient_loading: true"]),
        ({"fsdp_version": 2, "activation_checkpointing": True}, ["fsdp_activation_checkpointing: true"]),
        ({"fsdp_version": 1}, ["fsdp_version: 1"]),
    ],
)
def test_settings_of_fsdp_that_would_cut_the_generator_are_refused(monkeypatch, options, wrong):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")  # the plugin writes it, too
    plugin = FullyShardedDataParallelPlugin(**options)

    assert [what for is_wrong, what, _ in wrong_of_fsdp(plugin) if is_wrong] == wrong


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, []),
        ({"zero_optimization": {"stage": 3}}, ["zero_stage: 3"]),
        ({"optimizer": {"type": "Adam"}}, ["an optimizer of DeepSpeed"]),
    ],
)
def test_settings_of_deepspeed_that_lose_something_are_refused(changes, wrong):
    config = {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
    plugin = DeepSpeedPlugin(hf_ds_config={**config, **changes})

    assert [what for is_wrong, what, _ in wrong_of_deepspeed(plugin) if is_wrong] == wrong


def test_the_error_of_a_process_alone_is_its_own():
    with pytest.raises(KeyError), one_error(0, 1):
        raise KeyError("alone")


def test_all_processes_end_with_the_error_of_the_first():
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        with pytest.raises(ValueError, match=r"^the rows are bad$"), one_error(1, 2):
            raise ValueError("the rows are bad")
        with pytest.raises(ValueError, match=r"^Process 1 has ended: the rows are bad$"), one_error(0, 2):
            raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    finally:
        dist.destroy_process_group()
