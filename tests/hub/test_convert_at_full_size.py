"""An official checkpoint at its real size is converted within the memory of one shard and 3 GB.

Its files are sparse: sizes, names and shapes are those of the published ones, and all weights but a row are zero.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors import safe_open
from transformers import UMT5Config, UMT5EncoderModel

from hub.published_layouts import LAYOUTS, WAN, read, write
from official_checkpoints import official_config
from processing.builders import build_processor
from vega3d.hub.tensor_files import DTYPE_NAMES

GB = 10**9
SPARE = 3 * GB  # that a conversion may take above the largest shard
NEEDED = 40 * GB  # on disk
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "image_token_id", "video_token_id")
TOKENS += ("vision_start_token_id", "vision_end_token_id", "vision_token_id")
SHARD = 4 * GB  # at most, as transformers cut them when the checkpoint was published


def write_sparse(file: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> None:
    """A safetensors file of zeros that takes no room on the disk."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(8 + len(text) + end)


def cut(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, str]:
    """The shard of each tensor."""
    places, number, size = {}, 1, 0
    for name, shape in shapes.items():
        weight = torch.Size(shape).numel() * dtype.itemsize
        if size and size + weight > SHARD:
            number, size = number + 1, 0
        places[name], size = f"model-{number:05}.safetensors", size + weight
    return places


def write_shards(folder: Path, stem: str, shapes: dict, places: dict[str, str], dtype: torch.dtype) -> None:
    for place in sorted(set(places.values())):
        write_sparse(folder / place, {name: shapes[name] for name in places if places[name] == place}, dtype)
    write(folder / f"{stem}.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": places})


def save_official(folder: Path) -> Path:
    """The spatial-reasoning checkpoint of 7B, with the tokens of the tests' own tokenizer."""
    tiny = official_config()
    published = read(LAYOUTS / "qwen2.5-vl-7b-instruct" / "config.json")
    ours = {key: value for key, value in tiny.items() if "generative_" in key or key in TOKENS}
    build_processor(patch=14).vlm_processor.save_pretrained(folder)
    write(folder / "config.json", {**published, **ours, "generative_merger_hidden_dim": 4096})
    write(folder / "generation_config.json", {"do_sample": False, "pad_token_id": 0})
    shapes = read(LAYOUTS / "vega-3d-spatial-reasoning-7b" / "state_dict.json")
    write_shards(folder, "model", shapes, cut(shapes, torch.bfloat16), torch.bfloat16)
    return folder


def save_wan(folder: Path) -> Path:
    """Wan2.1-T2V-1.3B with its text encoder, whose end of sequence alone is not zero."""
    shutil.copytree(WAN, folder)
    transformer, vae, encoder = (read(WAN / part / "config.json") for part in ("transformer", "vae", "text_encoder"))
    with torch.device("meta"):
        blocks = WanTransformer3DModel.from_config(transformer).state_dict()
        text = UMT5EncoderModel(UMT5Config(**encoder)).state_dict()
    for part, stem, weights in (
        ("transformer", "diffusion_pytorch_model", blocks),
        ("text_encoder", "model", text),
    ):
        places = read(WAN / part / f"{stem}.safetensors.index.json")["weight_map"]
        shapes = {name: tuple(weights[name].shape) for name in places}
        write_shards(folder / part, stem, shapes, places, torch.float32)
    AutoencoderKLWan.from_config(vae).save_pretrained(folder / "vae")
    give_the_end_of_sequence_a_meaning(folder / "text_encoder", encoder)
    return folder


def give_the_end_of_sequence_a_meaning(folder: Path, encoder: dict) -> None:
    place = folder / read(folder / "model.safetensors.index.json")["weight_map"]["shared.weight"]
    with safe_open(place, framework="pt") as opened:
        assert opened.get_slice("shared.weight").get_shape() == [encoder["vocab_size"], encoder["d_model"]]
    with place.open("r+b") as opened:
        length = int.from_bytes(opened.read(8), "little")
        start = json.loads(opened.read(length))["shared.weight"]["data_offsets"][0]
        opened.seek(8 + length + start + encoder["eos_token_id"] * encoder["d_model"] * 4)
        opened.write(torch.ones(encoder["d_model"]).numpy().tobytes())


def memory(process: subprocess.Popen) -> int:
    """Bytes of a process that no file stands behind; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


@pytest.mark.stress
def test_seven_billion_parameters_are_converted_in_the_memory_of_a_shard(tmp_path):
    if shutil.disk_usage(tmp_path).free < NEEDED:
        pytest.skip(f"needs {NEEDED // GB} GB of disk")
    official, wan = save_official(tmp_path / "official"), save_wan(tmp_path / "wan")
    largest = max(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    command = [sys.executable, "-m", "vega3d_cli", "convert", official, tmp_path / "model", "--generator", wan]

    began, peak = time.monotonic(), 0
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        peak = max(peak, memory(process))
        time.sleep(0.05)

    assert process.returncode == 0, process.stderr and process.stderr.read()
    print(f"{peak / GB:.1f} GB beside a largest file of {largest / GB:.1f} GB, {time.monotonic() - began:.0f} s")
    assert 0 < peak <= largest + SPARE
    assert sum(file.stat().st_size for file in (tmp_path / "model").rglob("*.safetensors")) > 15 * GB
