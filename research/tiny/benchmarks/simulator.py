"""Loss and gradients of a step of the generator's training: as launched one by one, and as a CUDA graph.

python -m research.tiny.benchmarks.simulator        # one GPU, sizes of configs/generator.yaml
python -m research.tiny.benchmarks.simulator --toy  # any machine; without a GPU nothing is captured
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from research.tiny.simulator.config import GeneratorConfig, read_generator_config
from research.tiny.simulator.dit import DiTTrainer, build_dit
from research.tiny.simulator.graphs import graphed
from research.tiny.simulator.vae import VAETrainer, build_vae, latent_shape, single_frames

RECIPE = Path(__file__).parents[1] / "configs" / "generator.yaml"
Gradients = Callable[..., list]


def milliseconds(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median of so many calls, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[1:])


def gradients_of(module: torch.nn.Module, loss_of: Callable[..., torch.Tensor], device: torch.device) -> Gradients:
    def gradients(*inputs: torch.Tensor) -> list:
        for parameter in module.parameters():
            parameter.grad = None
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(*inputs)
        loss.backward()
        return [parameter.grad for parameter in module.parameters()]

    return gradients


def vae_ways(config: GeneratorConfig, device: torch.device) -> dict[str, Gradients]:
    def make(compile: bool) -> VAETrainer:
        options = dataclasses.replace(config.vae, compile=compile)
        return VAETrainer(build_vae(options, 0), options).to(device)

    def four_at_a_time(trainer: VAETrainer) -> Callable[..., torch.Tensor]:
        def loss(pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            posterior = DiagonalGaussianDistribution(trainer.vae._encode(pixels))
            decoded = trainer.vae.decode(posterior.mean + posterior.std * noise).sample
            return (decoded.float() - pixels).abs().mean()

        return loss

    theirs, ours, compiled = make(False), make(False), make(True)
    return {
        "diffusers": gradients_of(theirs, four_at_a_time(theirs), device),
        "diffusers, graph": graphed(gradients_of(theirs, four_at_a_time(theirs), device), device),
        "whole clips, graph": graphed(gradients_of(ours, lambda *given: ours(*given)[0], device), device),
        "compiled, graph": graphed(gradients_of(compiled, lambda *given: compiled(*given)[0], device), device),
    }


def dit_ways(config: GeneratorConfig, device: torch.device) -> dict[str, Gradients]:
    def make() -> DiTTrainer:
        return DiTTrainer(build_dit(config.dit, config.vae.z_dim, 0), config.dit).to(device)

    eager, compiled = make(), make()
    compiled.transformer.compile_repeated_blocks(fullgraph=True)
    return {
        "diffusers": gradients_of(eager, lambda *given: eager(*given)[0], device),
        "diffusers, graph": graphed(gradients_of(eager, lambda *given: eager(*given)[0], device), device),
        "compiled, graph": graphed(gradients_of(compiled, lambda *given: compiled(*given)[0], device), device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="32 px, one clip")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    config = read_generator_config(RECIPE)
    size, clips, walks = (
        (32, 1, 1) if options.toy else (config.rooms.size, config.vae.batch_size, config.dit.batch_size)
    )
    clip = torch.rand(clips, 3, config.rooms.clip_frames, size, size, device=device) * 2 - 1
    cases: dict[str, tuple[dict[str, Gradients], tuple[torch.Tensor, ...]]] = {}
    for name, pixels in (("VAE, clips", clip), ("VAE, frames", single_frames(clip))):
        noise = torch.randn(latent_shape(pixels.shape, config.vae.z_dim), device=device)
        cases[name] = (vae_ways(config, device), (pixels, noise))
    shape = (walks, config.vae.z_dim, config.rooms.num_latents, size // 8, size // 8)
    latents = torch.randn(shape, device=device)
    cases["transformer"] = (
        dit_ways(config, device),
        (latents, torch.randn_like(latents), torch.rand(walks, device=device)),
    )
    figures = {}
    for case, (ways, inputs) in cases.items():
        times = {way: milliseconds(partial(f, *inputs), device, options.repeats) for way, f in ways.items()}
        figures[case] = times
        for way, taken in times.items():
            print(f"{case:14} {way:20} {taken:8.1f} ms  {times['diffusers'] / taken:5.2f}x", flush=True)
    if options.output:
        shown = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        values = {"device": shown, "torch": torch.__version__, "repeats": options.repeats, "milliseconds": figures}
        options.output.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
