"""Speed of sweeps: reading all blocks against one full forward, and the time of a sweep over many clips.

    python benchmarks/sweep.py                                # CPU, a tiny generator of 12 blocks, 100 clips
    python benchmarks/sweep.py --full --output sweep.json     # GPU, Wan2.1-T2V-1.3B shapes, random weights

A full forward is `VegaGenerator.encode` at the last block: one VAE pass and all blocks, without the head. `read` gives
the hidden states of all blocks; `read and score` computes the correspondence over all pairs of views of each too;
`geometry`, which voxels which views see, is needed once a clip. The clips are of an empty room, whose depth is exact
and needs no rendering; their frames are noise.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from tqdm import tqdm

import vega3d
from vega3d import VegaGenerator
from vega3d.analysis.clips import PosedClip
from vega3d.analysis.correspondence import CoVisible, co_visible, correspondence
from vega3d.analysis.settings import make_grid
from vega3d.analysis.sweep import Measurement, correspondence_parts
from vega3d.analysis.tokens import FittedClip, fit_clip
from vega3d.geometry import intrinsics_from_field_of_view, look_at
from vega3d.processing.generator_frames_vega3d import FrameSettings

WAN_1_3B = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30}
TINY = {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 96, "num_layers": 12, "text_dim": 32}
ROOM = np.array([5.0, 4.0, 2.6])  # [m]


def make_generator(folder: Path, full: bool, device: str) -> VegaGenerator:
    torch.manual_seed(0)
    with torch.device(device):
        transformer = WanTransformer3DModel(**(WAN_1_3B if full else TINY))
        vae = AutoencoderKLWan() if full else AutoencoderKLWan(base_dim=4, num_res_blocks=1)
    for name, part in (("transformer", transformer), ("vae", vae)):
        part.to(torch.bfloat16).save_pretrained(folder / name)
    return VegaGenerator.from_folder(
        folder,
        torch.bfloat16 if device == "cuda" else torch.float32,
        torch.zeros(1, transformer.config.text_dim),
        device,
        block=-1,
    )


def room_clip(number: int, frames: int, width: int, height: int) -> PosedClip:
    """A camera that turns in the middle of an empty room; its depth is exact."""
    random = np.random.default_rng(number)
    intrinsics = intrinsics_from_field_of_view(width, height, 70.0)
    position = ROOM * (0.5, 0.5, 0.55) + random.uniform(-0.3, 0.3, 3)
    start = random.uniform(0, 2 * np.pi)
    angles = start + np.linspace(0, np.pi / 2, frames)
    ahead = np.stack([np.cos(angles), np.sin(angles), np.full(frames, -0.2)], axis=1)
    poses = np.stack([look_at(position + 0.2 * step, position + 0.2 * step + step) for step in ahead])
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones((height, width))], axis=-1)
    rays = pixels @ np.linalg.inv(intrinsics).T @ np.swapaxes(poses[:, None, :3, :3], 2, 3)  # float[T, H, W, 3]
    origin = poses[:, None, None, :3, 3]
    walls = np.where(rays > 0, (ROOM - origin) / rays, -origin / rays)
    images = random.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    depth = walls.min(axis=-1).astype(np.float32)
    return PosedClip(f"room{number}", f"room{number}", images, depth, intrinsics, intrinsics, poses)


def timed(function: Callable[[], object], cuda: bool) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    function()
    if cuda:
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def compare(generator: VegaGenerator, given: FittedClip, repeats: int) -> dict:
    """Medians of a full forward, of reading all blocks, of scoring them too, and of the geometry; and the ratios."""
    blocks = list(range(generator.config.num_layers))
    timestep, cuda = generator.config.timestep, generator.device.type == "cuda"

    def read() -> dict:
        return next(iter(generator.read(given.frames, blocks, [timestep])))[1]

    def geometry() -> CoVisible:
        return co_visible(given.clip, given.fit)

    seen = geometry()

    def read_and_score() -> None:
        for features in read().values():
            correspondence(features, seen)

    forward = "full forward"
    ways = {forward: lambda: generator.encode([given.frames]), "read": read, "read and score": read_and_score}
    ways["geometry"] = geometry
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            elapsed = timed(way, cuda)
            if turn:  # the first turn warms up
                times[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {
        name: statistics.median(a / b for a, b in zip(times[name], times[forward], strict=True))
        for name in ways
        if name != forward
    }
    return {"milliseconds": medians, "ratio_to_full_forward": ratios, "pairs": len(seen.query) // 2}


def sweep_clips(
    generator: VegaGenerator, settings: FrameSettings, count: int, frames: int, size: tuple[int, int]
) -> dict:
    """Seconds of a sweep over all blocks at one noise level, without the making of the clips."""
    grid = make_grid(generator.config, settings, blocks=range(generator.config.num_layers))
    seconds, rows = 0.0, 0
    with tempfile.TemporaryDirectory() as parts:
        for number in tqdm(range(count), desc="clips"):
            clip = room_clip(number, frames, *size)
            start = time.perf_counter()
            run = Measurement(generator=generator, grid=grid, parts=Path(parts))
            for group in run.groups():
                rows += sum(map(len, correspondence_parts(run, group, group.fit(clip))))
            seconds += time.perf_counter() - start
    return {"clips": count, "frames": frames, "blocks": generator.config.num_layers, "rows": rows, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="Wan2.1-T2V-1.3B shapes instead of tiny ones")
    parser.add_argument("--size", metavar="WxH", help="of the frames [px]; default: 832x480, or 192x192 when tiny")
    parser.add_argument("--frames", type=int, help="default: 32, or 16 when tiny")
    parser.add_argument("--clips", type=int, help="of the timed sweep; default: 4, or 100 when tiny")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    width, height = map(int, (options.size or ("832x480" if options.full else "192x192")).split("x"))
    frames = options.frames or (32 if options.full else 16)
    clips = options.clips or (4 if options.full else 100)
    with tempfile.TemporaryDirectory() as folder:
        generator = make_generator(Path(folder), options.full, options.device)
        settings = FrameSettings(generator.config.patch_size, max_area=1280 * 720 if options.full else 192 * 192)
        given = fit_clip(room_clip(0, frames, width, height), settings, generator.config.clip_mode)
        one_clip = compare(generator, given, options.repeats)
        many = sweep_clips(generator, settings, clips, frames, (width, height))
    results = {
        "command": " ".join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor(),
        "threads": torch.get_num_threads(),
        "versions": {module.__name__: module.__version__ for module in (torch, diffusers, transformers, vega3d)},
        "size": [width, height],
        "frames": frames,
        "one_clip": one_clip,
        "many_clips": many,
    }
    print(f"{frames} frames of {width}x{height}, {many['blocks']} blocks, one noise level, {one_clip['pairs']} pairs")
    for name, milliseconds in one_clip["milliseconds"].items():
        ratio = one_clip["ratio_to_full_forward"].get(name)
        print(f"{name:15} {milliseconds:10.1f} ms" + (f"   x {ratio:.3f}" if ratio else ""))
    print(f"sweep of {many['clips']} clips: {many['seconds']:.1f} s ({many['rows']} rows)")
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
