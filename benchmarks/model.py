"""Memory, time to first token and time of a training step of the whole fused model; with and without cached features.

    python benchmarks/model.py                             # CPU, tiny shapes
    python benchmarks/model.py --full --output model.json  # GPU, Qwen2.5-VL-7B + Wan2.1-T2V-1.3B, random weights
    python benchmarks/model.py --full --memory 4bit low low-8bit

Every way loads the same checkpoint, which is written first: assembled, saved, loaded by `from_pretrained`. One
question about 32 frames. Cached features wait in host memory. The vision tower attends to its windows one by one, as
transformers does without flash-attn, and then packed (`pack_vision_attention`).
"""

import argparse
import contextlib
import functools
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import diffusers
import torch
import transformers
from generator import release, write_generator
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

import vega3d
from vega3d import VegaForSpatialReasoning
from vega3d.hub.load import load_model
from vega3d.hub.memory_choices import CHOICES
from vega3d.inference.vision_attention import pack_vision_attention
from vega3d.training.parts import choose_parts

FRAMES = 32
QUESTION_TOKENS = 40
QWEN_7B, QWEN_3B = (3584, 28, 28, 4, 18944, 152064), (2048, 36, 16, 2, 11008, 151936)  # of Qwen2.5-VL
TINY_VLM = (64, 2, 2, 2, 128, 512)


def vlm_config(full: bool, shape: tuple[int, int, int, int, int, int] = QWEN_7B) -> Qwen2_5_VLConfig:
    """Shapes of Qwen2.5-VL-7B-Instruct, or of another `shape`; tiny ones in multiples of 64 unless `full`.

    `shape` has width, layers, heads, heads of the keys, inner width and vocabulary of the language model.
    """
    width, layers, heads, kv_heads, inner, vocabulary = shape if full else TINY_VLM
    head = width // heads
    text = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [head // 8, 3 * head // 16, 3 * head // 16],
        },
    }
    vision = {"out_hidden_size": width, "hidden_size": 1280, "intermediate_size": 3420}
    if not full:
        vision = {**vision, "hidden_size": 64, "intermediate_size": 128, "depth": 2, "num_heads": 2}
    tokens = {name: vocabulary - 1 - index for index, name in enumerate(("image_token_id", "video_token_id"))}
    markers = {"vision_start_token_id": vocabulary - 3, "vision_end_token_id": vocabulary - 4}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **tokens, **markers)


def made_checkpoint(folder: Path, options) -> Path:
    """The checkpoint that an earlier run left in `folder`, or a new one."""
    model = folder / "model"
    if not (model / "config.json").is_file():
        write_checkpoint(folder, options)
    return model


def write_checkpoint(folder: Path, options) -> None:
    torch.manual_seed(0)
    with torch.device(options.device):
        vlm = Qwen2_5_VLForConditionalGeneration._from_config(vlm_config(options.full), dtype=torch.bfloat16)
    vlm.save_pretrained(folder / "vlm")
    del vlm
    release()
    generator = write_generator(folder / "generator", options.full, options.device)
    prompt = torch.zeros(1, generator.transformer["text_dim"])
    model = VegaForSpatialReasoning.from_backbones(
        folder / "vlm", folder / "generator", prompt_embeds=prompt, block=generator.block, fusion_residual_init=0.2
    )
    model.save_pretrained(folder / "model")


@contextlib.contextmanager
def weights_folder(given: Path | None) -> Iterator[Path]:
    """`given`, which stays, or a folder that is deleted afterwards."""
    if given is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        given.mkdir(parents=True, exist_ok=True)
        yield given


def question(model, options, frames: int = FRAMES) -> dict[str, torch.Tensor]:
    """Random pixels of a video, packed as the processor does: 448x336 for the VLM, 832x480 for the generator."""
    random = torch.Generator().manual_seed(0)
    rows, columns = (24, 32) if options.full else (4, 6)
    token_rows, token_columns = (30, 52) if options.full else (3, 4)
    grid = (frames // 2, rows, columns)
    config = model.config
    visual = [config.vlm_config.vision_start_token_id, *[config.video_token_id] * (frames // 2 * rows * columns // 4)]
    text = torch.randint(5, 200, (QUESTION_TOKENS,), generator=random).tolist()
    ids = torch.tensor([[*visual, config.vlm_config.vision_end_token_id, *text]])
    patches = frames * token_rows * token_columns
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": torch.randn(torch.Size(grid).numel(), 3 * 2 * 14 * 14, generator=random),
        "video_grid_thw": torch.tensor([grid]),
        "generator_pixel_values_videos": torch.randint(0, 256, (patches, 768), dtype=torch.uint8, generator=random),
        "generator_video_grid_thw": torch.tensor([(frames, token_rows, token_columns)]),
    }
    return {name: value.to(model.device) for name, value in inputs.items()}


def seconds(function, repeats: int) -> dict[str, float]:
    """Median, fastest and slowest [s] of `function()`, after one call that warms up."""
    times = []
    for repeat in range(repeats + 1):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if repeat:
            times.append(time.perf_counter() - start)
    return {"median": statistics.median(times), "fastest": min(times), "slowest": max(times)}


def cached(inputs: dict, model) -> dict:
    """The same question with the generator's features in host memory (pinned), as a data loader hands them over."""
    features = [hidden.bfloat16().cpu() for hidden in model.generator_features(**inputs)]
    if model.device.type == "cuda":
        features = [hidden.pin_memory() for hidden in features]
    kept = {name: value for name, value in inputs.items() if name != "generator_pixel_values_videos"}
    return {**kept, "generator_hidden_states": features}


@torch.no_grad()
def first_token(model, inputs: dict, options) -> dict:
    """Times [s] to the first token: with the generator online, cached, and of the plain VLM; and of their parts."""
    vlm = {name: value for name, value in inputs.items() if not name.startswith("generator_")}
    vlm["mm_token_type_ids"] = 2 * (inputs["input_ids"] == model.config.video_token_id).int()
    warm = cached(inputs, model)
    encoded = model.encode(**warm)
    ways = {
        "online": lambda: model.generate(**inputs, max_new_tokens=1),
        "cached": lambda: model.generate(**warm, max_new_tokens=1),
        "plain VLM": lambda: model.model.vlm.generate(**vlm, max_new_tokens=1),
        "part: generator": lambda: model.generator_features(**inputs),
        "part: vision tower": lambda: model.model.vlm.get_video_features(
            inputs["pixel_values_videos"], inputs["video_grid_thw"]
        ),
        "part: language model": lambda: model(**vlm, mm_encoder_outputs=encoded.mm_encoder_outputs, logits_to_keep=1),
    }
    return {name: seconds(way, options.repeats) for name, way in ways.items()}


def training_step(model, inputs: dict, options) -> dict:
    """Times [s] of a step that trains gate and projector: forward, backward, AdamW."""
    model = choose_parts(model, ["gate", "projector"], seed=0)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -8:] = inputs["input_ids"][:, -8:]

    def step(batch: dict) -> None:
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    warm = cached(inputs, model)
    batches = {"online": inputs, "cached": warm}
    return {name: seconds(functools.partial(step, batch), options.repeats) for name, batch in batches.items()}


def measure(folder: Path, memory: str, options) -> dict:
    cuda = options.device == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    start = time.perf_counter()
    model = load_model(VegaForSpatialReasoning, folder, memory, torch.device(options.device), dtype)
    row: dict = {
        "loading_s": time.perf_counter() - start,
        "weights_gib": torch.cuda.memory_allocated() / 2**30 if cuda else None,
    }
    inputs = question(model, options)
    with torch.no_grad():
        windows_apart = model(**inputs, logits_to_keep=1).logits.float()
    row["first token, a call for each window"] = first_token(model, inputs, options)
    if pack_vision_attention(model):
        with torch.no_grad():
            packed = model(**inputs, logits_to_keep=1).logits.float()
        row["cosine of logits, packed windows"] = torch.cosine_similarity(packed, windows_apart, dim=-1).item()
        row["first token, packed windows"] = first_token(model, inputs, options)
    row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    if memory == "full":
        row["training step"] = training_step(model, inputs, options)
    return row


def print_row(name: str, row: dict) -> None:
    print(f"\n{name}")
    for key, value in row.items():
        if not isinstance(value, dict):
            print(f"  {key}: {value if value is None else round(value, 4)}")
            continue
        print(f"  {key} [ms]")
        for way, times in value.items():
            median, fastest, slowest = (1000 * times[key] for key in ("median", "fastest", "slowest"))
            print(f"    {way:22} {median:8.1f} ({fastest:.1f} to {slowest:.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="shapes of Qwen2.5-VL-7B and Wan2.1-T2V-1.3B")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", nargs="+", default=["full"], choices=CHOICES, help="as `vega3d ask --memory`")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, help="of the weights, kept for the next run; else they are deleted")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    results = {
        "command": f"python benchmarks/model.py{' --full' * options.full} --memory {' '.join(options.memory)}",
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor(),
        "versions": {module.__name__: module.__version__ for module in (torch, diffusers, transformers, vega3d)},
        "frames": FRAMES,
        "rows": {},
    }
    with weights_folder(options.folder) as folder:
        checkpoint = made_checkpoint(folder, options)
        for name in options.memory:
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            results["rows"][name] = measure(checkpoint, name, options)
            release()
            print_row(name, results["rows"][name])
            if options.output:
                options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
