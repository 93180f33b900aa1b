"""Every option of `from_pretrained`: followed, or refused with the reason; none passed over."""

import inspect
import re
import shutil

import accelerate
import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tiny_inputs import Visual, batch
from vega3d import VegaForSpatialReasoning

REFUSED = {  # by name: values that are refused, and words of the reason
    "use_safetensors": [(False, "safetensors alone")],
    "weights_only": [(False, "safetensors alone")],
    "low_cpu_mem_usage": [(False, "one by one")],
    "dtype": [({"vlm_config": "bfloat16"}, "one dtype"), ("zzz", "valid `torch.dtype`"), (5, "valid `torch.dtype`")],
    "torch_dtype": [({"": "float16"}, "one dtype")],
    "state_dict": [({}, "generator's weights come from files")],
    "gguf_file": [("x.gguf", "safetensors alone")],
    "from_tf": [(True, "safetensors alone")],
    "from_flax": [(True, "safetensors alone")],
    "tp_plan": [("auto", "whole on each process")],
    "tp_size": [(2, "whole on each process")],
    "device_mesh": [("any", "whole on each process")],
    "distributed_config": [("any", "whole on each process")],
    "mirror": [("any", "any more")],
    "proxies": [({"https": "any"}, "HTTPS_PROXY")],
    "offload_state_dict": [(True, "any more")],
    "max_memory": [({"cpu": "1GB"}, "only device_map")],
    "offload_folder": [("any", "only device_map")],
    "offload_buffers": [(True, "only device_map")],
    "device_map": [("zzz", "zzz")],
    "attn_implementation": [
        ("zzz", "zzz"),
        ({"text_config": "eager"}, "no sub-model"),
        ({"vlm_config": {"zzz": "eager"}}, "no sub-model"),
        ({"generator_config": {"text_config": "eager"}}, "no sub-model"),
    ],
    "load_in_4bit": [(True, "BitsAndBytesConfig")],
    "load_in_8bit": [(True, "BitsAndBytesConfig")],
    "block": [(2, "neither an option of transformers nor a field")],
    "resume_download": [(True, "neither an option of transformers nor a field")],
    "projector_hidden_size": [(16, "other shapes")],
    "fusion": [("zzz", "zzz")],
    "fusion_config": [({"zzz": True}, "zzz")],
}
FOLLOWED = {  # tests below and in test_checkpoint.py
    "pretrained_model_name_or_path",
    "config",
    "variant",
    "subfolder",
    "device_map",
    "max_memory",
    "offload_folder",
    "dtype",
    "torch_dtype",
    "attn_implementation",
    "quantization_config",
    "ignore_mismatched_sizes",
    "key_mapping",
    "output_loading_info",
    "adapter_kwargs",
    "kwargs",
}
WITHOUT_EFFECT_ON_A_FOLDER = {  # tests/hub/test_hub.py has them for a Hub id; handed on for the generator's files
    "revision",
    "cache_dir",
    "force_download",
    "local_files_only",
    "token",
}
OF_TRANSFORMERS = {  # read before or after the parts that differ here
    "model_args",
    "disable_mmap",
    "adapter_name",
    "generation_config",
    "trust_remote_code",
    "use_kernels",
    "allow_all_kernels",
    "kernel_config",
    "experts_implementation",
    "tqdm_class",
    "_commit_hash",
    "_from_auto",
    "_from_pipeline",
    "_fast_init",
}
PROMPTS = ([1, Visual(3), 5], [2, Visual(0), 7])


def test_every_option_is_in_a_table():
    source = inspect.getsource(PreTrainedModel.from_pretrained)
    named = set(inspect.signature(PreTrainedModel.from_pretrained).parameters)
    named |= set(re.findall(r'kwargs\.(?:pop|get)\(\s*"(\w+)"', source))
    for listed in re.findall(r"for name in \[([^\]]*)\]", source):
        named |= set(re.findall(r'"(\w+)"', listed))

    assert named - set(REFUSED) - FOLLOWED - WITHOUT_EFFECT_ON_A_FOLDER - OF_TRANSFORMERS == set()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [(name, value, words) for name, cases in REFUSED.items() for value, words in cases],
)
def test_what_cannot_be_followed_is_refused(checkpoint, name, value, words):
    with pytest.raises(ValueError) as refused:
        VegaForSpatialReasoning.from_pretrained(checkpoint, **{name: value})

    assert words in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"low_cpu_mem_usage": True},
        {"use_safetensors": True},
        {"weights_only": True},
        {"offload_state_dict": None, "tp_plan": None, "gguf_file": None},
        {"force_download": True},
        {"local_files_only": True},
        {"token": "any"},
        {"key_mapping": {"^zzz": "yyy"}},
        {"adapter_kwargs": {}},
    ],
)
def test_what_changes_nothing_is_taken(checkpoint, model, options):
    loaded = VegaForSpatialReasoning.from_pretrained(checkpoint, **options)

    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_one_dtype_is_of_all_parts(checkpoint, name):
    model = VegaForSpatialReasoning.from_pretrained(checkpoint, **{name: "bfloat16"})

    assert model.model.vlm.dtype == model.model.projector.mlp[0].weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("given", "outer", "text", "vision", "generator"),
    [
        ("eager", "eager", "eager", "eager", "eager"),
        ({"vlm_config": "eager"}, "sdpa", "eager", "eager", "sdpa"),
        ({"vlm_config": {"text_config": "eager"}}, "sdpa", "eager", "sdpa", "sdpa"),
        ({"generator_config": "eager", "": "sdpa"}, "sdpa", "sdpa", "sdpa", "eager"),
    ],
)
def test_attention_of_each_sub_model(checkpoint, given, outer, text, vision, generator):
    model = VegaForSpatialReasoning.from_pretrained(checkpoint, attn_implementation=given)

    vlm = model.model.vlm.config
    configs = (model.config, vlm.text_config, vlm.vision_config, model.model.generator.config)
    assert [config._attn_implementation for config in configs] == [outer, text, vision, generator]


@pytest.mark.skipif(Version(accelerate.__version__) < Version("1.15"), reason="accelerate leaves a part off the disk")
@pytest.mark.parametrize(
    "options", [{"device_map": {"": "disk"}}, {"device_map": "auto", "max_memory": {"cpu": "1KB"}}]
)
def test_offloaded_to_the_disk_it_gives_the_same(checkpoint, model, tmp_path, options):
    inputs = batch(*PROMPTS)
    loaded = VegaForSpatialReasoning.from_pretrained(checkpoint, offload_folder=str(tmp_path / "off"), **options)

    with torch.no_grad():
        ours, theirs = loaded(**inputs).logits, model(**inputs).logits

    assert torch.equal(ours, theirs)


def test_a_model_in_a_subfolder(checkpoint, model, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "deep" / "er")

    loaded = VegaForSpatialReasoning.from_pretrained(tmp_path, subfolder="deep/er")

    assert all(torch.equal(ours, theirs) for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True))


def test_weights_of_other_names_are_mapped(checkpoint, model, tmp_path):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {name.replace("model.fusion.", "model.mixer."): tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})

    loaded = VegaForSpatialReasoning.from_pretrained(tmp_path, key_mapping={r"^model\.mixer\.": "model.fusion."})

    assert all(torch.equal(ours, theirs) for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True))


def test_other_shapes_are_begun_anew_if_that_is_asked_for(checkpoint):
    loaded, told = VegaForSpatialReasoning.from_pretrained(
        checkpoint, projector_hidden_size=16, ignore_mismatched_sizes=True, output_loading_info=True
    )

    assert loaded.config.projector_hidden_size == 16
    assert len(told["mismatched_keys"]) == 3


@pytest.mark.parametrize("fusion", ["none", "generative_only"])
def test_fields_of_the_config_replace_those_of_the_checkpoint(checkpoint, fusion):
    loaded = VegaForSpatialReasoning.from_pretrained(checkpoint, fusion=fusion)

    assert loaded.config.fusion == fusion
    assert (loaded.model.fusion is None) == (fusion == "none")


def test_a_long_value_is_shown_short(checkpoint):
    with pytest.raises(ValueError) as refused:
        VegaForSpatialReasoning.from_pretrained(checkpoint, zzz=list(range(1000)))

    assert len(str(refused.value)) < 300
