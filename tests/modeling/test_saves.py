"""What a save writes, what it leaves alone, and what a plain Trainer makes of it."""

import json
import logging
import resource

import pytest
import torch
from transformers import AutoModel, Trainer, TrainingArguments

from tiny_models import BLOCK, every_vlm, save_generator, save_vlm
from vega3d import VegaForSpatialReasoning
from vega3d.modeling.checkpoint_vega3d import saving_into

SHARDS = "2KB"


@pytest.mark.parametrize("first", [None, "fp16"])
@pytest.mark.parametrize("size", ["50GB", SHARDS])
def test_a_variant_is_saved_beside_the_others(model, tmp_path, first, size):
    second = "fp16" if first is None else None
    model.save_pretrained(tmp_path, variant=first, max_shard_size=size)
    before = {file.name for file in tmp_path.glob("model*")}

    model.save_pretrained(tmp_path, variant=second, max_shard_size="50GB")

    assert before < {file.name for file in tmp_path.glob("model*")}
    for variant in (first, second):
        loaded = VegaForSpatialReasoning.from_pretrained(tmp_path, variant=variant)
        assert torch.equal(loaded.get_output_embeddings().weight, model.get_output_embeddings().weight)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_save_removes_the_shards_of_its_own_last_one(model, tmp_path, variant):
    model.save_pretrained(tmp_path, variant=variant, max_shard_size=SHARDS)
    sharded = {file.name for file in tmp_path.glob("model*.safetensors*")}

    model.save_pretrained(tmp_path, variant=variant)

    (left,) = tmp_path.glob("model*.safetensors*")
    assert left.name == ("model.safetensors" if variant is None else "model.fp16.safetensors")
    model.save_pretrained(tmp_path, variant=variant, max_shard_size=SHARDS)
    assert {file.name for file in tmp_path.glob("model*.safetensors*")} == sharded


@pytest.mark.parametrize(
    "name",
    [
        "model-best.safetensors",
        "model_old.safetensors",
        "model.ema.safetensors",
        "model-00001-of-00009.safetensors",  # no index names it
        "models.safetensors.index.json",
    ],
)
def test_files_of_the_user_stay(model, tmp_path, name):
    model.save_pretrained(tmp_path, max_shard_size=SHARDS)
    (tmp_path / name).write_bytes(b"mine")

    model.save_pretrained(tmp_path)

    assert (tmp_path / name).read_bytes() == b"mine"


@pytest.mark.parametrize("index", ["[]", "null", '{"weight_map": 5}', '{"weight_map": {"a": ["b"]}}', "{"])
def test_an_index_that_no_save_wrote_names_nothing(model, tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"mine")

    model.save_pretrained(tmp_path)

    assert (tmp_path / "model-00001-of-00002.safetensors").read_bytes() == b"mine"
    VegaForSpatialReasoning.from_pretrained(tmp_path)


def test_an_index_reaches_no_file_of_another_folder_or_variant(model, tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    others = ("../model-00001-of-00002.safetensors", "model.fp16-00001-of-00002.safetensors")
    for name in others:
        (folder / name).write_bytes(b"mine")
    index = {"weight_map": {name: name for name in (*others, "config.json")}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    model.save_pretrained(folder)

    assert all((folder / name).read_bytes() == b"mine" for name in others)
    assert (folder / "config.json").is_file()


def test_a_folder_in_the_place_of_a_file_stays(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    (tmp_path / "model.safetensors" / "mine").write_bytes(b"mine")

    with pytest.raises(OSError), saving_into(tmp_path) as partial:
        (partial / "model.safetensors").write_bytes(b"new")

    assert (tmp_path / "model.safetensors" / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize("option", ["save_original_format", "distributed_checkpoint"])
def test_options_whose_files_do_not_load_are_refused(model, tmp_path, option):
    with pytest.raises(ValueError, match=option):
        model.save_pretrained(tmp_path, **{option: True})


def test_an_adapter_is_saved_alone_and_loads(checkpoint, tmp_path):
    from peft import LoraConfig

    model = VegaForSpatialReasoning.from_pretrained(checkpoint)
    model.add_adapter(LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False))

    model.save_pretrained(tmp_path)

    assert not (tmp_path / "generator").exists()
    for loader in (VegaForSpatialReasoning, AutoModel):
        loaded = loader.from_pretrained(tmp_path)
        adapters = {name: value for name, value in loaded.state_dict().items() if "lora_" in name}
        assert adapters
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in adapters.items())


@every_vlm
@pytest.mark.parametrize("tied", [True, False])
def test_resuming_a_plain_trainer_misses_nothing(vlm_type, tied, batch, tmp_path, caplog):
    vlm = save_vlm(tmp_path / "vlm", vlm_type, tied=tied)
    model = VegaForSpatialReasoning.from_backbones(vlm, save_generator(tmp_path / "wan"), block=BLOCK)
    inputs = batch([5, 6, 7])
    rows = [{name: value[0] for name, value in inputs.items()} | {"labels": inputs["input_ids"][0]}] * 2
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=1, save_steps=1, report_to="none", use_cpu=True, remove_unused_columns=False
    )
    Trainer(model, arguments, train_dataset=rows).train()
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied

    with caplog.at_level(logging.WARNING):
        logging.getLogger("transformers").addHandler(caplog.handler)
        Trainer(model, arguments, train_dataset=rows).train(resume_from_checkpoint=True)
        logging.getLogger("transformers").removeHandler(caplog.handler)

    assert "missing keys" not in caplog.text


def test_a_head_that_is_no_longer_tied_is_saved(vlm_type, tmp_path):
    vlm = save_vlm(tmp_path / "vlm", vlm_type, tied=True)
    model = VegaForSpatialReasoning.from_backbones(vlm, save_generator(tmp_path / "wan"), block=BLOCK)
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach() + 1)

    model.exclude_generator_weights()

    assert not any("lm_head" in name for name in model._keys_to_ignore_on_save)


def test_a_disk_that_is_full_is_told(model, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # bytes, less than the weights
    try:
        with pytest.raises(OSError, match=r"cannot be written: .*Make room"):
            model.save_pretrained(tmp_path / "saved")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "saved").iterdir())
