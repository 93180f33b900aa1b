"""Hub ids, by the real client against a stand-in server."""

import shutil
from pathlib import Path

import pytest

from hub.hub_process import run, serving
from tiny_checkpoints import FROZEN, FROZEN_CONFIG
from tiny_models import save_generator, save_vlm
from vega3d.shipped import example_clip


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """(endpoint, folder of its repositories)"""
    root = tmp_path_factory.mktemp("hub")
    save_vlm(root / "org" / "vlm")
    save_generator(root / "org" / "wan")
    shutil.copytree(FROZEN, root / "org" / "vega3d-tiny")
    with serving(root) as address:
        yield address, root


def test_backbones_from_two_hub_ids(hub, tmp_path):
    code = """
import torch
from vega3d import VegaForSpatialReasoning
for backbones in (("org/vlm", "org/wan"), ({root!r} + "/org/vlm", {root!r} + "/org/wan")):
    model = VegaForSpatialReasoning.from_backbones(*backbones, block=1, projector_hidden_size=32)
    print(sum(p.double().abs().sum().item() for p in model.parameters()))
""".format(root=str(hub[1]))
    remote, local = run(hub, code, tmp_path).split()
    assert remote == local


def test_what_is_to_be_downloaded_is_known_before_and_nothing_is_afterwards(hub, tmp_path):
    code = """
from vega3d import VegaForSpatialReasoning
from vega3d.modeling.backbones_vega3d import find_backbones
print(find_backbones("org/vlm", "org/wan", block=1).download_bytes())
VegaForSpatialReasoning.from_backbones("org/vlm", "org/wan", block=1, projector_hidden_size=32)
print(find_backbones("org/vlm", "org/wan", block=1).download_bytes())
"""
    weights = sum(
        file.stat().st_size for name in ("vlm", "wan") for file in (hub[1] / "org" / name).rglob("*.safetensors")
    )

    assert run(hub, code, tmp_path).split() == [str(weights), "0"]


def test_a_checkpoint_whose_generator_is_a_hub_id(hub, tmp_path):
    code = f"""
import os, torch
from vega3d import VegaForSpatialReasoning
model = VegaForSpatialReasoning.from_backbones("org/vlm", "org/wan", block=1, source="org/wan")
model.save_pretrained({str(tmp_path / "model")!r})
assert not os.path.exists({str(tmp_path / "model" / "generator")!r})
again = VegaForSpatialReasoning.from_pretrained({str(tmp_path / "model")!r})
for (name, ours), (_, theirs) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
    assert torch.equal(ours, theirs), name
print("equal")
"""
    assert "equal" in run(hub, code, tmp_path)


def test_asking_a_model_on_the_hub(hub, tmp_path):
    code = f"""
import sys
import vega3d_cli
sys.argv = ["vega3d", "ask", {str(example_clip("room"))!r}, "Where?", "--options", "here", "there", "--device", "cpu",
            "--model", "org/vega3d-tiny"]
vega3d_cli.main()
"""
    assert run(hub, code, tmp_path).strip() in ("A. here", "B. there")


def test_from_pretrained_takes_the_generator_from_the_same_repository(hub, tmp_path):
    code = """
from transformers import AutoModel, AutoProcessor
import vega3d
model = AutoModel.from_pretrained("org/vega3d-tiny")
processor = AutoProcessor.from_pretrained("org/vega3d-tiny")
print(type(processor).__name__, model.model.generator.files.name, len(model.model.generator.tower.transformer.blocks))
"""
    blocks = FROZEN_CONFIG["generator_config"]["block"] + 1  # that are loaded
    assert run(hub, code, tmp_path).strip() == f"VegaProcessor generator {blocks}"


UPLOADS = {
    "pushed": "model.push_to_hub('org/pushed')",
    "saved": "model.save_pretrained('saved', push_to_hub=True, repo_id='org/saved')",
}


@pytest.mark.parametrize("name", UPLOADS)
def test_an_upload_is_whole(hub, tmp_path, name):
    code = f"""
import os
from vega3d import VegaForSpatialReasoning
os.chdir({str(tmp_path)!r})
model = VegaForSpatialReasoning.from_pretrained({str(FROZEN)!r})
{UPLOADS[name]}
"""
    run(hub, code, tmp_path)
    uploaded = hub[1] / "org" / name
    source = FROZEN / "generator"
    for file in source.rglob("*.*"):
        assert (uploaded / "generator" / file.relative_to(source)).read_bytes() == file.read_bytes()
    assert (uploaded / "model.safetensors").is_file()
    assert (uploaded / "modeling_vega3d.py").is_file()


def test_each_push_of_a_training_is_a_model_that_loads(hub, tmp_path):
    tests = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "training")]
    code = f"""
import json, sys, torch
from pathlib import Path
sys.path[:0] = {tests!r}
from training_data import trainer_for, write_clip, write_jsonl
from vega3d import VegaForSpatialReasoning
from vega3d.training.checkpoints import damage
folder, pushed = Path({str(tmp_path)!r}), Path({str(hub[1])!r}) / "org"
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
    assert "loaded" in run(hub, code, tmp_path / "home")
