"""What positions cost: mean points of tokens, their code, and vectors of 50 objects, beside passes of the model.

    python benchmarks/positions.py --threads 1                   # one core of a CPU
    python benchmarks/positions.py --output positions.json       # GPU: also the language model's pass

32 frames of 640 x 480 px with depth, as Qwen2.5-VL-7B sees them, in random numbers. Wall clock and processor time are
both given: on a machine that does other work, the second is what one core needs.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from model import vlm_config
from transformers import Qwen2_5_VLForConditionalGeneration

import vega3d
from vega3d import VegaConfig
from vega3d.geometry import intrinsics_from_field_of_view, look_at
from vega3d.modeling.alignment_vega3d import PROJECTORS
from vega3d.modeling.fusion_vega3d import FUSIONS
from vega3d.modeling.positions_vega3d import add_code, object_vectors, position_code
from vega3d.processing.clip_geometry_vega3d import ClipGeometry, token_positions

FRAMES, HEIGHT, WIDTH, TOKEN = 32, 480, 640, 28  # [px]
BOXES = 50
WAN = {"transformer": {"num_attention_heads": 12, "attention_head_dim": 128}}  # the width of Wan2.1-T2V-1.3B
ROOM = (6.0, 5.0, 2.6)  # [m]


def clip_geometry() -> ClipGeometry:
    """Depth of a room with a tenth of holes, from a camera that turns in its middle."""
    random = np.random.default_rng(0)
    depth = random.uniform(0.5, 4.0, (FRAMES, HEIGHT, WIDTH)).astype(np.float32)
    depth[random.random(depth.shape) < 0.1] = 0
    angles, center = np.linspace(0, 6, FRAMES), np.array(ROOM) / 2
    steps = np.stack([np.cos(angles), np.sin(angles), np.full(FRAMES, -0.2)], axis=1)
    poses = np.stack([look_at(center, center + step) for step in steps])
    return ClipGeometry(depth, intrinsics_from_field_of_view(WIDTH, HEIGHT, 70.0), poses)


def milliseconds(function: Callable[[], object], options) -> dict[str, float]:
    """Medians of the wall clock and of the processor time, after one call that warms up."""
    wall, processor = [], []
    for repeat in range(options.repeats + 1):
        start = time.perf_counter(), time.process_time()
        function()
        if options.device == "cuda":
            torch.cuda.synchronize()
        if repeat:
            wall.append(1000 * (time.perf_counter() - start[0]))
            processor.append(1000 * (time.process_time() - start[1]))
    return {"wall": statistics.median(wall), "processor": statistics.median(processor)}


def measure(options) -> dict[str, dict[str, float]]:
    grid = (FRAMES // 2, HEIGHT // TOKEN, WIDTH // TOKEN)
    geometry = clip_geometry()
    config = VegaConfig(vlm_config=vlm_config(full=True).to_dict(), generator_config=WAN, position_code="sin3d")
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    points, mask = (torch.from_numpy(part).to(options.device) for part in token_positions(geometry, grid))
    torch.manual_seed(0)
    tokens = torch.randn(len(points), config.hidden_size, dtype=dtype, device=options.device)
    places = torch.rand(BOXES, 3, device=options.device) * torch.tensor(ROOM, device=options.device)
    boxes = torch.cat([places, 0.2 + 1.2 * torch.rand(BOXES, 3, device=options.device)], dim=1)

    def objects() -> torch.Tensor:
        return object_vectors(tokens, points, mask, boxes) + position_code(places, config).to(dtype)

    def both() -> torch.Tensor:
        add_code(tokens, points, mask, config)
        return objects()

    with torch.device(options.device):
        projector = PROJECTORS[config.projector](config).to(dtype).eval()
        fusion = FUSIONS[config.fusion](config).to(dtype).eval()
        hidden = torch.randn(1, FRAMES, 30, 52, config.generator_config.hidden_size, dtype=dtype)
    patch_grid = (grid[0], 2 * grid[1], 2 * grid[2])

    def fuse() -> torch.Tensor:
        return fusion(tokens[None], projector(hidden, FRAMES, patch_grid), grid, None)[0]

    jobs: dict[str, Callable[[], object]] = {
        "mean points of tokens (processor)": lambda: token_positions(geometry, grid),
        "position code": lambda: add_code(tokens, points, mask, config),
        f"vectors of {BOXES} objects": objects,
        "position code and objects": both,
        "beside: alignment and fusion": fuse,
    }
    if options.device == "cuda":
        with torch.device(options.device):
            vlm = Qwen2_5_VLForConditionalGeneration._from_config(config.vlm_config, dtype=dtype).eval()
        jobs["beside: language model"] = lambda: vlm.model.language_model(inputs_embeds=tokens[None])
    return {name: milliseconds(job, options) for name, job in jobs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, help="of a CPU; all by default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with torch.no_grad():
        rows = measure(options)
    results = {
        "command": "python benchmarks/positions.py" + (f" --threads {options.threads}" if options.threads else ""),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor(),
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, vega3d)},
        "threads": torch.get_num_threads(),
        "tokens": FRAMES // 2 * (HEIGHT // TOKEN) * (WIDTH // TOKEN),
        "rows": rows,
    }
    for name, times in rows.items():
        print(f"{name:36} {times['wall']:9.1f} ms, of a processor {times['processor']:9.1f} ms")
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
