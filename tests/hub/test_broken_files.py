"""Folders of models that hold something else than they should: refused with a ValueError, not run, not waited for."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from command_line import run
from forks import run_forked
from tiny_checkpoints import FROZEN, FROZEN_CONFIG, save_vlm_with_processor
from tiny_models import BLOCK
from vega3d import VegaConfig, VegaForSpatialReasoning, VegaProcessor
from vega3d.hub.assemble import assemble, describe
from vega3d.hub.load import load_vega
from vega3d.modeling.generator_wan_vega3d import bars_on_terminals_only

DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000


@pytest.fixture
def model_folder(tmp_path) -> Path:
    return Path(shutil.copytree(FROZEN, tmp_path / "model"))


@pytest.fixture(scope="module")
def vlm(tmp_path_factory) -> Path:
    return save_vlm_with_processor(tmp_path_factory.mktemp("vlm") / "vlm", "qwen2_5_vl")


def change(file: Path, *path: str, value: Any) -> None:
    values = json.loads(file.read_text())
    inner = values
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    file.write_text(json.dumps(values))


# --- JSON --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[]", "null", "5", "NaN", DEEP, "[" * 100_000 + "]" * 100_000], ids=lambda t: t[:6])
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "processor_config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "generation_config.json",
        "generator/transformer/config.json",
        "generator/vae/config.json",
    ],
)
def test_json_that_holds_something_else_is_refused(model_folder, name, text):
    (model_folder / name).write_text(text)

    with pytest.raises((ValueError, OSError)):
        load_vega(model_folder, device="cpu")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "generation_config.json", "model.safetensors"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_and_not_waited_for(model_folder, name, make):
    (model_folder / name).unlink()
    make(model_folder / name)

    with pytest.raises(ValueError, match=r"no regular file|it has no config\.json"):
        load_vega(model_folder, device="cpu")


@pytest.mark.parametrize("text", [None, "{}", "[]", "null", DEEP], ids=lambda t: str(t)[:6])
def test_a_config_is_never_taken_for_the_default_one(model_folder, text):
    (model_folder / "config.json").unlink()
    if text is not None:
        (model_folder / "config.json").write_text(text)

    for load in (VegaConfig.from_pretrained, VegaForSpatialReasoning.from_pretrained, describe):
        with pytest.raises(ValueError, match="config"):
            load(model_folder)


@pytest.mark.parametrize("place", [("fancy",), ("generator_config", "fancy")])
def test_a_key_that_nothing_reads_is_refused(model_folder, place):
    change(model_folder / "config.json", *place, value=1)

    with pytest.raises(ValueError, match=rf"config\.json has the key {'.'.join(place)}, which nothing reads"):
        load_vega(model_folder, device="cpu")


def test_a_key_that_a_trainer_writes_is_none_of_these(model_folder):
    change(model_folder / "config.json", "use_cache", value=False)

    load_vega(model_folder, device="cpu")


FIELDS: list[tuple[tuple[str, ...], Any]] = [
    (("vlm_config",), []),
    (("vlm_config",), "qwen2_5_vl"),
    (("generator_config",), [1]),
    (("generator_config", "transformer"), None),
    (("generator_config", "transformer", "num_layers"), 10**9),
    (("generator_config", "vae", "dim_mult"), [0, 0, 0]),
    (("generator_config", "shift"), float("inf")),
    (("generator_config", "shift"), 1e308),
    (("generator_config", "shift"), float("nan")),
    (("generator_config", "extra_blocks"), "1"),
    (("generator_config", "source"), 5),
    (("vlm_config", "text_config", "hidden_size"), 0),
    (("vlm_config", "text_config", "vocab_size"), 1),
    (("vlm_config", "text_config", "num_hidden_layers"), 10**9),
    (("vlm_config", "text_config", "rms_norm_eps"), float("nan")),
    (("vlm_config", "text_config", "rope_parameters", "rope_theta"), 0),
    (("vlm_config", "vision_config"), []),
    (("vlm_config", "vision_config", "patch_size"), 0),
    (("dtype",), "zzz"),
    (("dtype",), "int8"),
    (("fusion",), []),
    (("fusion_gate_bias",), float("nan")),
    (("initializer_range",), float("inf")),
    (("projector_hidden_size",), 10**12),
    (("projector_hidden_size",), True),
    (("notice",), 5),
]


@pytest.mark.parametrize(("path", "value"), FIELDS, ids=[f"{path[-1]}-{value}" for path, value in FIELDS])
def test_impossible_values_of_a_config_are_refused(model_folder, path, value):
    change(model_folder / "config.json", *path, value=value)

    for load in (describe, lambda folder: load_vega(folder, device="cpu")):
        with pytest.raises(ValueError):
            load(model_folder)


# --- Processor ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["image_processor", "video_processor"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patch_size", 0),
        ("patch_size", 14),
        ("merge_size", -1),
        ("temporal_patch_size", None),
        ("image_std", [0.0, 1.0, 1.0]),
        ("image_mean", [float("nan")] * 3),
        ("rescale_factor", float("inf")),
        ("size", {"shortest_edge": 10**12, "longest_edge": 10**13}),
        ("size", {"shortest_edge": 5000, "longest_edge": 4000}),
    ],
)
def test_impossible_settings_of_a_processor_are_refused(model_folder, part, name, value):
    change(model_folder / "processor_config.json", part, name, value=value)

    with pytest.raises(ValueError, match=part):
        load_vega(model_folder, device="cpu")


TEMPLATES = {
    "no end": "{% for message in messages %}",
    "an unknown name": "{{ nothing.at.all }}",
    "refused by the sandbox": "{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}",
    "wrong types": "{{ 1 + 'a' }}",
    "no number": "{{ 1 / 0 }}",
    "too long a range": "{% for i in range(10 ** 9) %}{% endfor %}",
    "without end": "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_template_that_fails_is_refused_on_loading(model_folder, name):
    (model_folder / "chat_template.jinja").write_text(TEMPLATES[name])

    with pytest.raises(ValueError, match="chat template cannot be used"):
        VegaProcessor.from_pretrained(model_folder)


def test_a_chat_template_that_is_given_and_fails_is_refused():
    processor = VegaProcessor.from_pretrained(FROZEN)

    with pytest.raises(ValueError, match="chat template cannot be used: TemplateError: not so"):
        processor.apply_chat_template(
            [{"role": "user", "content": "Where?"}], chat_template="{{ raise_exception('not so') }}"
        )


def test_a_vlm_without_a_processor_of_pictures_is_refused_before_it_is_read(vlm, backbones, tmp_path):
    bare = Path(shutil.copytree(vlm, tmp_path / "bare", ignore=shutil.ignore_patterns("*processor*")))
    (bare / "model.safetensors").write_bytes(b"")

    with pytest.raises(ValueError, match="processor"):
        assemble(bare, backbones[1], tmp_path / "out", block=BLOCK)


# --- Weights -----------------------------------------------------------------------------------------------------


def split(folder: Path, place: str) -> None:
    """As a sharded save, one of whose shards lies elsewhere."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = dict.fromkeys(weights, "model-00001-of-00002.safetensors") | {"model.fusion.gate.weight": place}
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "place", ["../x.safetensors", "../../x.safetensors", "/tmp/x.safetensors", "a/b.safetensors", 5]
)
def test_an_index_cannot_point_outside_its_folder(model_folder, place):
    save_file(load_file(model_folder / "model.safetensors"), model_folder.parent / "x.safetensors")
    split(model_folder, place)

    with pytest.raises(ValueError, match="beside their index"):
        VegaForSpatialReasoning.from_pretrained(model_folder)


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_an_index_of_the_generator_cannot_point_outside_its_folder(model_folder, part):
    folder = model_folder / "generator" / part
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    (folder / "diffusion_pytorch_model.safetensors").rename(model_folder / "x.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "../../x.safetensors")}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(ValueError, match="beside their index"):
        VegaForSpatialReasoning.from_pretrained(model_folder)


def test_a_shard_that_is_a_pipe_is_not_waited_for(model_folder):
    split(model_folder, "model-00002-of-00002.safetensors")
    os.mkfifo(model_folder / "model-00002-of-00002.safetensors")

    with pytest.raises(ValueError, match="no regular file"):
        VegaForSpatialReasoning.from_pretrained(model_folder)


def other_shape(weights: dict) -> dict:
    return {**weights, "model.fusion.gate.weight": torch.zeros(3, 3)}


def not_a_number(name: str) -> Callable[[dict], dict]:
    return lambda weights: {**weights, name: torch.full_like(weights[name], float("nan"))}


@pytest.mark.parametrize(
    ("change_weights", "message"),
    [
        (other_shape, "other shapes"),
        (not_a_number("model.fusion.gate.weight"), r"NaN or infinity in fusion\.gate\.weight"),
        (not_a_number("model.projector.mlp.0.bias"), r"NaN or infinity in projector\.mlp\.0\.bias"),
        (not_a_number("model.generator.prompt_embeds"), r"NaN or infinity in generator\.prompt_embeds"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(model_folder, change_weights, message):
    file = model_folder / "model.safetensors"
    save_file(change_weights(load_file(file)), file, metadata={"format": "pt"})

    with pytest.raises(ValueError, match=message):
        load_vega(model_folder, device="cpu")


# --- Devices, dtypes, seeds, options -----------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["meta", "hpu", "privateuseone", "mps", "xla", "cuda:99", "", "vulkan", "cpu:x"])
def test_a_device_that_cannot_compute_is_refused(device):
    with pytest.raises(ValueError, match=f"'{device}' cannot be used"):
        load_vega(FROZEN, device=device)


@pytest.mark.parametrize("dtype", ["zzz", "int8", torch.int8, None, [], 5])
def test_a_dtype_that_weights_cannot_have_is_refused(dtype):
    with pytest.raises(ValueError, match=r"dtype is .* must be auto, float32, bfloat16 or float16"):
        load_vega(FROZEN, device="cpu", dtype=dtype)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "1", True])
def test_a_seed_out_of_range_is_refused(backbones, seed):
    with pytest.raises(ValueError, match="seed="):
        VegaForSpatialReasoning.from_backbones(*backbones, block=BLOCK, seed=seed)


@pytest.mark.parametrize(
    "prompt", [torch.zeros(3), torch.zeros(0, 16), torch.zeros(1, 5), torch.full((1, 16), torch.inf)]
)
def test_a_prompt_that_does_not_fit_is_refused(backbones, prompt):
    with pytest.raises(ValueError, match="prompt_embeds"):
        VegaForSpatialReasoning.from_backbones(*backbones, block=BLOCK, prompt_embeds=prompt)


@pytest.mark.parametrize(
    "setting", ["seed=1", "vlm=1", "dtype=1", "output=1", "report=1", "prompt_embeds=[]", "blok=1"]
)
def test_settings_that_are_no_fields_are_one_line(setting, vlm, backbones, tmp_path):
    arguments = ["assemble", "--vlm", vlm, "--generator", backbones[1], tmp_path / "out", "--set", setting]

    result = run(*arguments)

    assert result.exit_code == 2
    assert "error: " in result.stderr and result.stderr.count("\n") == 1
    assert setting.partition("=")[0] in result.stderr
    assert not (tmp_path / "out").exists()


# --- Code of others ----------------------------------------------------------------------------------------------


EVIL = "from pathlib import Path\nPath({mark!r}).touch()\nclass Evil:\n    pass\n"


def with_own_tokenizer(folder: Path, mark: Path) -> None:
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    values = json.loads((folder / "tokenizer_config.json").read_text())
    values |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))


def with_own_image_processor(folder: Path, mark: Path) -> None:
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    values = {"image_processor_type": "Evil", "auto_map": {"AutoImageProcessor": "evil.Evil"}}
    change(folder / "processor_config.json", "image_processor", value=values)


def with_own_generate(folder: Path, mark: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(EVIL.format(mark=str(mark)) + "generate = Evil\n")


def with_own_model(folder: Path, mark: Path) -> None:
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    values = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoProcessor": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(values))


def test_code_in_a_folder_is_never_run_nor_asked_about(vlm, backbones, tmp_path):
    """In one process, with `y` on its standard input."""
    mark, jobs = tmp_path / "ran", []
    for make in (with_own_tokenizer, with_own_image_processor, with_own_generate, with_own_model):
        folder = Path(shutil.copytree(FROZEN, tmp_path / make.__name__))
        make(folder, mark)
        jobs.append(["ask", "room", "Where?", "--options", "a", "b", "--device", "cpu", "--model", folder])
    for make in (with_own_tokenizer, with_own_model):
        folder = Path(shutil.copytree(vlm, tmp_path / f"vlm_{make.__name__}"))
        make(folder, mark)
        jobs.append(["assemble", "--vlm", folder, "--generator", backbones[1], tmp_path / "out", "--block", "1"])
    code = """
import json, sys
import vega3d_cli
for job in json.loads(sys.argv[1]):
    print("exit", vega3d_cli.run(job))
"""
    argument = json.dumps([[str(part) for part in job] for job in jobs])

    ran = run_forked(code, argument, environment=os.environ, input="y\n" * 99)

    assert ran.stdout.count("exit") == len(jobs), ran.stderr
    assert not mark.exists()
    assert "[y/N]" not in ran.stdout + ran.stderr
    assert not (tmp_path / "out").exists()


# --- Assembling --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(vlm, backbones, tmp_path_factory) -> tuple[Path, str]:
    """Where an assembly was killed after its weights were written, and what it said on standard error."""
    folder = tmp_path_factory.mktemp("killed")
    code = f"""
import os
from vega3d import VegaProcessor
from vega3d.hub.assemble import assemble
VegaProcessor.save_pretrained = lambda *arguments: os.kill(os.getpid(), 9)
assemble({str(vlm)!r}, {str(backbones[1])!r}, {str(folder / "out")!r}, block={BLOCK}, max_area=4096)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == -9, ran.stderr
    return folder, ran.stderr


def test_the_next_assembly_removes_what_a_killed_one_left(vlm, backbones, killed):
    folder, _ = killed
    (left_over,) = folder.iterdir()
    assert (left_over / "model.safetensors").is_file()

    assemble(vlm, backbones[1], folder / "out", block=BLOCK, max_area=4096)

    assert [path.name for path in folder.iterdir()] == ["out"]
    load_vega(folder / "out", device="cpu")


def test_nothing_is_said_about_kernels_for_four_bits_where_nothing_is_in_four_bits(killed):
    assert "gemm_4bit" not in killed[1]


def test_the_sizes_are_told_before_the_weights_are_read(vlm, backbones, tmp_path):
    folder = Path(shutil.copytree(vlm, tmp_path / "vlm"))
    (folder / "model.safetensors").write_bytes(bytes(5_000_000))
    told: list[str] = []

    with pytest.raises(ValueError, match="cannot be read"):
        assemble(folder, backbones[1], tmp_path / "out", told.append, block=BLOCK)

    assert len(told) == 1
    assert told[0].startswith(f"nothing to download; {tmp_path / 'out'} will take about 5.")
    assert "MB" in told[0]


def test_no_bars_where_no_terminal_is(capfd):
    from diffusers.utils import logging

    assert logging.is_progress_bar_enabled()
    with bars_on_terminals_only():
        assert not logging.is_progress_bar_enabled()
    assert logging.is_progress_bar_enabled()


def test_the_stored_config_is_within_all_limits():
    assert VegaConfig(**FROZEN_CONFIG).notice == FROZEN_CONFIG["notice"]
