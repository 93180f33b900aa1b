"""Hub ids, by the real client against a stand-in server."""

import shutil
from pathlib import Path

import pytest
import torch

from command_line import run
from hub.hub_process import run as run_code
from hub.hub_process import serving, talk_to
from tiny_checkpoints import FROZEN, FROZEN_CONFIG
from tiny_models import save_generator, save_vlm
from vega3d import VegaForSpatialReasoning
from vega3d.modeling.backbones_vega3d import find_backbones
from vega3d.shipped import example_clip


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(endpoint, folder of its repositories)"""
    root = tmp_path_factory.mktemp("hub")
    save_vlm(root / "org" / "vlm")
    save_generator(root / "org" / "wan")
    shutil.copytree(FROZEN, root / "org" / "vega3d-tiny")
    with serving(root) as address:
        yield address, root


@pytest.fixture
def hub(served, tmp_path, monkeypatch) -> Path:
    """Folder of the Hub's repositories; clients of this process talk to it, with an empty cache."""
    address, root = served
    talk_to(address, tmp_path / "home", monkeypatch)
    return root


def assert_equal(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    for (name, value), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(value, other), name


def test_backbones_from_two_hub_ids(hub):
    options = {"block": 1, "projector_hidden_size": 32, "seed": 0}
    remote = VegaForSpatialReasoning.from_backbones("org/vlm", "org/wan", **options)
    local = VegaForSpatialReasoning.from_backbones(hub / "org" / "vlm", hub / "org" / "wan", **options)

    assert_equal(remote, local)


def test_what_is_to_be_downloaded_is_known_before_and_nothing_is_afterwards(hub):
    weights = [file for name in ("vlm", "wan") for file in (hub / "org" / name).rglob("*.safetensors")]

    before = find_backbones("org/vlm", "org/wan", block=1).download_bytes()
    VegaForSpatialReasoning.from_backbones("org/vlm", "org/wan", block=1, projector_hidden_size=32)

    assert before == sum(file.stat().st_size for file in weights)
    assert find_backbones("org/vlm", "org/wan", block=1).download_bytes() == 0


def test_a_checkpoint_whose_generator_is_a_hub_id(hub, tmp_path):
    model = VegaForSpatialReasoning.from_backbones("org/vlm", "org/wan", block=1, source="org/wan")
    model.save_pretrained(tmp_path / "model")

    assert not (tmp_path / "model" / "generator").exists()
    assert_equal(model, VegaForSpatialReasoning.from_pretrained(tmp_path / "model"))


def test_asking_a_model_on_the_hub(hub):
    asked = ("ask", example_clip("room"), "Where?", "--options", "here", "there", "--device", "cpu")

    result = run(*asked, "--model", "org/vega3d-tiny")

    assert result.stdout.strip() in ("A. here", "B. there"), result.stderr


ASKED_BY_ITS_ENVIRONMENT = """
from transformers import AutoModel, AutoProcessor
import vega3d
model = AutoModel.from_pretrained("org/vega3d-tiny")
processor = AutoProcessor.from_pretrained("org/vega3d-tiny")
print(type(processor).__name__, model.model.generator.files.name, len(model.model.generator.tower.transformer.blocks))
"""


def test_from_pretrained_takes_the_generator_from_the_same_repository(served, tmp_path):
    """In a process of its own: the client reads the address from its environment."""
    blocks = FROZEN_CONFIG["generator_config"]["block"] + 1  # that are loaded

    assert run_code(served, ASKED_BY_ITS_ENVIRONMENT, tmp_path).strip() == f"VegaProcessor generator {blocks}"


UPLOADS = {
    "pushed": lambda model: model.push_to_hub("org/pushed"),
    "saved": lambda model: model.save_pretrained("saved", push_to_hub=True, repo_id="org/saved"),
}


@pytest.mark.parametrize("name", UPLOADS)
def test_an_upload_is_whole(hub, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    uploaded, source = hub / "org" / name, FROZEN / "generator"

    UPLOADS[name](VegaForSpatialReasoning.from_pretrained(FROZEN))

    for file in source.rglob("*.*"):
        assert (uploaded / "generator" / file.relative_to(source)).read_bytes() == file.read_bytes()
    assert (uploaded / "model.safetensors").is_file()
    assert (uploaded / "modeling_vega3d.py").is_file()


def test_each_push_of_a_training_is_a_model_that_loads(served, tmp_path):
    """In a process of its own: a training leaves its marks on the one that it ran in."""
    tests = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "training")]
    code = f"""
import json, sys, torch
from pathlib import Path
sys.path[:0] = {tests!r}
from training_data import trainer_for, write_clip, write_jsonl
from vega3d import VegaForSpatialReasoning
from vega3d.training.checkpoints import damage
folder, pushed = Path({str(tmp_path)!r}), Path({str(served[1])!r}) / "org"
write_clip(folder / "clip.mp4", 0)
asked = {{"role": "user", "content": [{{"type": "video"}}, {{"type": "text", "text": "How many?"}}]}}
row = {{"messages": [asked, {{"role": "assistant", "content": "2"}}], "videos": ["clip.mp4"]}}
data = write_jsonl(folder / "rows.jsonl", [row] * 2)
for strategy in ("every_save", "checkpoint", "end"):
    trainer = trainer_for(data, folder / strategy, "gate,projector", 1, save_strategy="steps", save_steps=1,
        push_to_hub=True, hub_model_id="org/" + strategy, hub_strategy=strategy, hub_always_push=True)
    trainer.processing_class = trainer.data_collator.processor
    trainer.train()
    if strategy == "end":
        assert not (pushed / strategy / "config.json").exists()
        trainer.push_to_hub()
    loaded = VegaForSpatialReasoning.from_pretrained(pushed / strategy)
    for (name, ours), theirs in zip(trainer.model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(ours, theirs), (strategy, name)
    if strategy == "checkpoint":
        assert damage(pushed / strategy / "last-checkpoint") is None
print("loaded")
"""

    assert "loaded" in run_code(served, code, tmp_path / "home")
