"""Eight clips through the core of the model: one by one, and together as `VegaModel.encode` and `VegaGenerator` do.

    python benchmarks/core.py                               # CPU or GPU, tiny shapes
    python benchmarks/core.py --full --output core.json     # GPU, widths of Qwen2.5-VL-7B and Wan2.1-T2V-1.3B

Both ways take turns in one run, on the same tensors; the ratio is of their medians. "Bit-equal" says whether the
tokens or features of the clips together are those of each clip alone. On a CPU they must be, so that products stay
clip by clip there, and the generator takes no clips together at all.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
import transformers
from generator import load, write_generator
from model import vlm_config
from tqdm import tqdm

import vega3d
from vega3d import VegaConfig
from vega3d.modeling.alignment_vega3d import PROJECTORS
from vega3d.modeling.fusion_vega3d import FUSIONS

CLIPS = 8


def seconds(function: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(one: Callable[[int], list[torch.Tensor]], together: Callable[[], list[torch.Tensor]], options) -> dict:
    """Median milliseconds of 8 clips one by one and together, their ratio, and how far the results differ.

    Args:
        one: results of the clip of a number.
        together: results of all clips.
        options: `repeats` and `device`.
    """
    ways = {"one by one": lambda: [one(number)[0] for number in range(CLIPS)], "together": together}
    results = {name: way() for name, way in ways.items()}  # warms up
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            times[name].append(1000 * seconds(way, options.device))
    row: dict = {name: statistics.median(values) for name, values in times.items()}
    row["ratio"] = row["one by one"] / row["together"]
    row["bit-equal"] = all(map(torch.equal, *results.values()))
    row["difference"] = max(map(relative_difference, *results.values()))
    return row


def relative_difference(one: torch.Tensor, together: torch.Tensor) -> float:
    """The root mean square of the difference, as a share of that of the values."""
    return float((one.float() - together.float()).norm() / one.float().norm())


def align_and_fuse(config: VegaConfig, dtype: torch.dtype, options) -> dict:
    """`projector` and `fusion` on clips of 32 frames, as they lie in memory after the generator."""
    frames, (h, w), (rows, columns) = (32, (30, 52), (24, 32)) if options.full else (8, (4, 6), (6, 8))
    torch.manual_seed(0)
    with torch.device(options.device):
        projector = PROJECTORS[config.projector](config).to(dtype).eval()
        fusion = FUSIONS[config.fusion](config).to(dtype).eval()
        patch_grid = (frames // 2, rows, columns)
        token_grid = (frames // 2, rows // 2, columns // 2)
        hidden = torch.randn(CLIPS, frames, h, w, config.generator_config.hidden_size, dtype=dtype)
        semantic = torch.randn(CLIPS, torch.Size(token_grid).numel(), config.hidden_size, dtype=dtype)
        question = torch.randn(CLIPS, config.hidden_size, dtype=dtype)

    def run(numbers: slice) -> torch.Tensor:
        generative = projector(hidden[numbers], frames, patch_grid)
        return fusion(semantic[numbers], generative, token_grid, question[numbers])[0]

    return compare(lambda number: list(run(slice(number, number + 1))), lambda: list(run(slice(None))), options)


def encode(folder: Path, config, clip_mode: str, dtype: torch.dtype, options) -> dict:
    """`VegaGenerator.encode` of short clips, as many at a time as `chunk_frames` takes."""
    prompt = torch.zeros(config.prompt_tokens, config.transformer["text_dim"])
    changes = {"clip_mode": clip_mode, "chunk_frames": CLIPS * 8}
    generator = load(folder, config, prompt, dtype, options.device, changes)
    random = torch.Generator().manual_seed(0)
    size = (5, 3, 96, 128)
    clips = [torch.randint(0, 256, size, dtype=torch.uint8, generator=random).to(options.device) for _ in range(CLIPS)]
    return compare(lambda number: generator.encode([clips[number]]), lambda: generator.encode(clips), options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="widths of the published models instead of tiny ones")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    results = {
        "command": "python benchmarks/core.py" + (" --full" if options.full else ""),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor(),
        "versions": {module.__name__: module.__version__ for module in (torch, diffusers, transformers, vega3d)},
        "threads": torch.get_num_threads(),
        "clips": CLIPS,
        "rows": {},
    }
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        generator = write_generator(Path(folder), options.full, options.device)
        jobs: dict[str, Callable[[], dict]] = {}
        for fusion in ("token_gated_residual", "instruction_gated", "cross_attention"):
            config = VegaConfig(
                vlm_config=vlm_config(options.full).to_dict(), generator_config=generator.to_dict(), fusion=fusion
            )
            jobs[f"align and fuse, {fusion}"] = lambda config=config: align_and_fuse(config, dtype, options)
        for mode in ("frame", "views", "clip"):
            jobs[f"generator, {mode}"] = lambda mode=mode: encode(Path(folder), generator, mode, dtype, options)
        for name, job in tqdm(jobs.items(), desc="rows"):
            results["rows"][name] = row = job()
            print(
                f"{name:40} one by one {row['one by one']:9.2f} ms, together {row['together']:9.2f} ms, "
                f"ratio {row['ratio']:5.2f}, bit-equal {row['bit-equal']}, difference {row['difference']:.1e}"
            )
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
