"""Speed and memory of the latent world simulator, against the straightforward way with diffusers.

    python benchmarks/generator.py                                 # CPU, tiny shapes
    python benchmarks/generator.py --full --output generator.json  # GPU, Wan2.1-T2V-1.3B shapes, random weights
    python benchmarks/generator.py --full --sizes 832x480 --mode clip --frames 81
    python benchmarks/generator.py --full --ways "compiled, fp8, no kernels" "compiled, fp8"

The last one says what Triton's kernels win, and "to eager" is the cosine to the first way, which is without them.
With a tiny VAE features are others, and have no cosine here: weights are random.

The straightforward way encodes with diffusers, runs all blocks, and reads the wanted one by a hook: frame by frame,
or with all frames of the clip together in the modes that join them.
Its float32 run is the reference of the cosine. All ways load the same files; compiling is not timed.
"""

import argparse
import functools
import gc
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import diffusers
import torch
import torch.nn.functional as F
import transformers
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file
from tqdm import tqdm

import vega3d
from vega3d import VegaGenerator, VegaGeneratorConfig
from vega3d.modeling.generator_vega3d import unit_pixels
from vega3d.modeling.noise_vega3d import add_noise
from vega3d.modeling.tiny_vae_wan_vega3d import TinyVAEToLatents

WAN_1_3B = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30}
WAYS: dict[str, dict] = {
    "eager": {},
    "compiled": {"compile": True},
    "compiled, fp8": {"compile": True, "linear_precision": "fp8"},
    "compiled, int8": {"compile": True, "linear_precision": "int8"},
    "compiled, fp8, no kernels": {"compile": True, "linear_precision": "fp8"},
    "compiled, tiny VAE": {"compile": True},
    "compiled, fp8, tiny VAE": {"compile": True, "linear_precision": "fp8"},
}
TINY = {"num_attention_heads": 2, "attention_head_dim": 32, "ffn_dim": 96, "num_layers": 6, "text_dim": 32}


def write_generator(folder: Path, full: bool, device: str) -> VegaGeneratorConfig:
    """Random weights in the published layout, stored in bfloat16, so that every way starts from the same numbers."""
    torch.manual_seed(0)
    with torch.device(device):
        transformer = WanTransformer3DModel(**(WAN_1_3B if full else TINY))
        vae = AutoencoderKLWan() if full else AutoencoderKLWan(base_dim=8)
    for name, part in (("transformer", transformer), ("vae", vae)):
        part.to(torch.bfloat16).save_pretrained(folder / name)
    write_tiny_vae(folder)
    configs = {
        name: {key: value for key, value in part.config.items() if not key.startswith("_")}
        for name, part in (("transformer", transformer), ("vae", vae))
    }
    return VegaGeneratorConfig(**configs, block=20 if full else 3)


def write_tiny_vae(folder: Path) -> None:
    """The same generator with a tiny VAE, in `tiny` within its folder."""
    config = {"z_dim": 16, "tiny_width": 64, "latents_mean": [0.0] * 16, "latents_std": [1.0] * 16}
    vae = TinyVAEToLatents(**config).to(torch.bfloat16)
    (folder / "tiny" / "vae").mkdir(parents=True)
    (folder / "tiny" / "transformer").symlink_to(folder / "transformer")
    (folder / "tiny" / "vae" / "config.json").write_text(json.dumps({"_class_name": "TAEHV", **config}))
    save_file(vae.state_dict(), folder / "tiny" / "vae" / "diffusion_pytorch_model.safetensors")


class Straightforward:
    """What one writes first: diffusers' encoder, the whole transformer, a hook on the block."""

    def __init__(self, folder: Path, generator: VegaGenerator, dtype: torch.dtype, device: str):
        load = {"torch_dtype": dtype}
        self.transformer = WanTransformer3DModel.from_pretrained(folder, subfolder="transformer", **load).to(device)
        self.vae = AutoencoderKLWan.from_pretrained(folder, subfolder="vae", **load).to(device)
        self.transformer.blocks[generator.config.block_index].register_forward_hook(self.keep)
        self.generator, self.dtype = generator, dtype
        prompt = generator.prompt_embeds.to(dtype)
        padding = prompt.new_zeros(generator.config.prompt_length - len(prompt), prompt.shape[1])
        self.prompt = torch.cat([prompt, padding])[None]

    def keep(self, module, inputs, output):
        self.hidden = output

    @torch.no_grad()
    def __call__(self, clip: torch.Tensor) -> torch.Tensor:
        mode = self.generator.config.clip_mode
        if mode == "clip":
            return self.hidden_states(self.encode(clip), 0)
        latents = [self.encode(frame[None]) for frame in clip]
        if mode == "views":
            return self.hidden_states(torch.cat(latents, dim=2), 0)
        return torch.cat([self.hidden_states(latent, index) for index, latent in enumerate(latents)])

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Normalised latents of frames that follow each other, float[T, 3, H, W] -> float32[1, Z, t, h, w]."""
        config = self.vae.config
        mean, std = (
            frames.new_tensor(x, dtype=torch.float32).view(-1, 1, 1, 1)
            for x in (config.latents_mean, config.latents_std)
        )
        pixels = unit_pixels(frames).to(self.dtype).transpose(0, 1)[None]
        return (self.vae.encode(pixels).latent_dist.mean.float() - mean) / std

    def hidden_states(self, latents: torch.Tensor, first: int) -> torch.Tensor:
        """What the block gives for latents of which the first one is number `first`, float[t, h, w, C]."""
        shape = latents[:, :, 0].shape
        numbers = range(first, first + latents.shape[2])
        noise = torch.stack([self.generator.noise(number, shape, latents.device) for number in numbers], dim=2)
        step = torch.tensor([self.generator.level.step], device=latents.device)
        self.transformer(add_noise(latents, noise, self.generator.level.sigma).to(self.dtype), step, self.prompt)
        t, h, w = (edge // patch for edge, patch in zip(latents.shape[2:], (1, 2, 2), strict=True))
        return self.hidden[0].unflatten(0, (t, h, w))


def measure(function, clip: torch.Tensor, repeats: int) -> dict:
    """Median milliseconds and peak memory [GiB] of `function(clip)`, after one call that warms up."""
    cuda = clip.is_cuda
    function(clip)
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(clip)
        if cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    return {"milliseconds": statistics.median(times), "fastest": min(times), "slowest": max(times), "peak_gib": peak}


def release() -> None:
    """The memory of one way must not count for the next."""
    gc.collect()
    torch.cuda.empty_cache()


def cosine(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return F.cosine_similarity(ours.float(), reference.float(), dim=-1).mean().item()


def compare(folder: Path, config: VegaGeneratorConfig, size: tuple[int, int], options) -> dict:
    release()
    width, height = size
    random = torch.Generator().manual_seed(0)
    clip = torch.randint(0, 256, (options.frames, 3, height // 8, width // 8), dtype=torch.float, generator=random)
    clip = F.interpolate(clip, size=(height, width), mode="bilinear").to(torch.uint8).to(options.device)
    dtype, name = (torch.bfloat16, "bf16") if clip.is_cuda else (torch.float32, "float32")
    prompt = torch.randn(config.prompt_tokens, config.transformer["text_dim"], generator=random)
    rows, features = {}, {}
    for way in options.ways:
        changes = {**WAYS[way], "clip_mode": options.mode, "attention_backend": options.attention}
        place = folder / "tiny" if "tiny VAE" in way else folder
        generator = load(place, config, prompt, dtype, options.device, changes)
        if "no kernels" in way:
            generator.tower.with_kernels = False
        encode = functools.partial(first_features, generator)
        rows[f"vega3d, {way}, {name}"] = measure(encode, clip, options.repeats)
        features[f"vega3d, {way}, {name}"] = encode(clip).cpu()
        generator.tower = None
        release()
    straight = Straightforward(folder, generator, dtype, options.device)
    rows[f"diffusers, all blocks, hook, {name}"] = measure(straight, clip, max(1, options.repeats // 3))
    features[f"diffusers, all blocks, hook, {name}"] = straight(clip).cpu()
    del straight
    release()
    reference = Straightforward(folder, generator, torch.float32, options.device)(clip).cpu()
    first = next(iter(features.values()))
    for way, hidden in features.items():
        has_wan_vae = "tiny VAE" not in way
        rows[way]["cosine"] = cosine(hidden, reference) if has_wan_vae else None
        rows[way]["cosine_to_eager"] = cosine(hidden, first) if has_wan_vae else None
    return rows


def first_features(generator: VegaGenerator, clip: torch.Tensor) -> torch.Tensor:
    return generator.encode([clip])[0]


def load(
    folder: Path, config: VegaGeneratorConfig, prompt: torch.Tensor, dtype: torch.dtype, device: str, changes: dict
) -> VegaGenerator:
    return VegaGenerator.from_folder(folder, dtype, prompt, device, block=config.block, **changes)


def print_table(size: str, rows: dict, frames: int) -> None:
    slowest = max(row["milliseconds"] for row in rows.values())
    print(f"\n{size}, {frames} frames", flush=True)
    print(f"{'':40} {'ms':>9} {'ratio':>6} {'peak GiB':>9} {'cosine':>8} {'to eager':>9}")
    for name, row in rows.items():
        peak = f"{row['peak_gib']:.2f}" if row["peak_gib"] is not None else "-"
        ratio = slowest / row["milliseconds"]
        found = row["cosine"], row["cosine_to_eager"]
        near, to_eager = ("-" if value is None else f"{value:.5f}" for value in found)
        print(f"{name:40} {row['milliseconds']:9.1f} {ratio:6.2f} {peak:>9} {near:>8} {to_eager:>9}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="Wan2.1-T2V-1.3B shapes instead of tiny ones")
    parser.add_argument("--sizes", nargs="+", metavar="WxH", help="default: 832x480 1280x720, or 128x96 when tiny")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS)[:3], help="of vega3d")
    parser.add_argument("--mode", choices=("frame", "views", "clip"), default="frame", help="as `clip_mode`")
    parser.add_argument("--attention", default="native", help="as `attention_backend`, such as _flash_3")
    parser.add_argument("--frames", type=int, default=32, help="1 + 4k in the mode clip")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    if options.mode == "clip" and options.frames % 4 != 1:
        parser.error(f"--frames is {options.frames}, but diffusers encodes 1 + 4k frames in the mode clip, such as 33")
    if options.mode == "clip" and any("tiny VAE" in way for way in options.ways):
        parser.error("--mode clip has no way with a tiny VAE, which is for single frames. Leave it out of --ways")
    sizes = options.sizes or (["832x480", "1280x720"] if options.full else ["128x96"])
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    results = {
        "command": "python benchmarks/generator.py" + (" --full" if options.full else ""),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor(),
        "versions": {module.__name__: module.__version__ for module in (torch, diffusers, transformers, vega3d)},
        "mode": options.mode,
        "attention": options.attention,
        "frames": options.frames,
        "repeats": options.repeats,
        "sizes": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        config = write_generator(Path(folder), options.full, options.device)
        for size in tqdm(sizes, desc="sizes"):
            rows = compare(Path(folder), config, tuple(map(int, size.split("x"))), options)
            results["sizes"][size] = rows
            print_table(size, rows, options.frames)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
