"""Memory and time to first token of the whole fused model, in the load dtype and with the VLM in 4 bits.

    python benchmarks/model.py                             # CPU, tiny shapes
    python benchmarks/model.py --full --output model.json  # GPU, Qwen2.5-VL-7B + Wan2.1-T2V-1.3B, random weights

Every way loads the same checkpoint, which is written first: assembled, saved, loaded by `from_pretrained`. One
question about 16 frames; `generator` is the part of the time that the latent world simulator takes.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import diffusers
import torch
import transformers
from generator import release, write_generator
from transformers import BitsAndBytesConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

import vega3d
from vega3d import VegaForSpatialReasoning

FRAMES = 16
QUESTION_TOKENS = 40


def vlm_config(full: bool) -> Qwen2_5_VLConfig:
    """Shapes of Qwen2.5-VL-7B-Instruct, or tiny ones in multiples of 64."""
    width, layers, heads, kv_heads, inner, vocabulary = (
        (3584, 28, 28, 4, 18944, 152064) if full else (64, 2, 2, 2, 128, 512)
    )
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


def write_checkpoint(folder: Path, options) -> Path:
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
    return folder / "model"


def question(model, options) -> dict[str, torch.Tensor]:
    """Random pixels of 16 frames at 640x480 (tiny: 64x48), packed as the processor packs them."""
    random = torch.Generator().manual_seed(0)
    rows, columns = (34, 46) if options.full else (4, 6)
    cell_rows, cell_columns = (30, 40) if options.full else (3, 4)
    grid = (FRAMES // 2, rows, columns)
    config = model.config
    visual = [config.vlm_config.vision_start_token_id, *[config.video_token_id] * (FRAMES // 2 * rows * columns // 4)]
    text = torch.randint(5, 200, (QUESTION_TOKENS,), generator=random).tolist()
    ids = torch.tensor([[*visual, config.vlm_config.vision_end_token_id, *text]])
    cells = FRAMES * cell_rows * cell_columns
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": torch.randn(torch.Size(grid).numel(), 3 * 2 * 14 * 14, generator=random),
        "video_grid_thw": torch.tensor([grid]),
        "generator_pixel_values_videos": torch.randint(0, 256, (cells, 768), dtype=torch.uint8, generator=random),
        "generator_video_grid_thw": torch.tensor([(FRAMES, cell_rows, cell_columns)]),
    }
    return {name: value.to(model.device) for name, value in inputs.items()}


def seconds(function, repeats: int) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@torch.no_grad()
def measure(folder: Path, four_bit: bool, options) -> dict:
    load: dict = {"dtype": torch.bfloat16 if options.device == "cuda" else torch.float32}
    if four_bit:
        load["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=load["dtype"],
        )
    cuda = options.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    model = VegaForSpatialReasoning.from_pretrained(folder, device_map={"": options.device}, **load)
    loading = time.perf_counter() - start
    inputs = question(model, options)
    plain = {name: value for name, value in inputs.items() if not name.startswith("generator_")}
    vlm = {**plain, "mm_token_type_ids": 2 * (inputs["input_ids"] == model.config.video_token_id).int()}
    row = {
        "loading_s": loading,
        "weights_gib": torch.cuda.memory_allocated() / 2**30 if cuda else None,
        "first_token_s": seconds(lambda: model.generate(**inputs, max_new_tokens=1), options.repeats),
        "generator_s": seconds(lambda: model.generator_features(**inputs), options.repeats),
    }
    features = model.generator_features(**inputs)
    cached = {**plain, "generator_hidden_states": features}
    row["first_token_cached_s"] = seconds(lambda: model.generate(**cached, max_new_tokens=1), options.repeats)
    row["first_token_plain_vlm_s"] = seconds(
        lambda: model.model.vlm.generate(**vlm, max_new_tokens=1), options.repeats
    )
    row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="shapes of Qwen2.5-VL-7B and Wan2.1-T2V-1.3B")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    results = {
        "command": "python benchmarks/model.py" + (" --full" if options.full else ""),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor(),
        "versions": {module.__name__: module.__version__ for module in (torch, diffusers, transformers, vega3d)},
        "frames": FRAMES,
        "rows": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder), options)
        for name, four_bit in (("load dtype", False), ("VLM in 4 bits", True)):
            row = measure(checkpoint, four_bit, options)
            results["rows"][name] = row
            release()
            figures = ", ".join(f"{key} {value:.2f}" for key, value in row.items() if value is not None)
            print(f"{name}: {figures}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
