"""Sampled videos as files: MP4, a grid of frames, and how they were made."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from research.tiny.simulator.pictures import grid_of_videos, save_picture
from research.tiny.simulator.sampling import Solver, padded_prompt, sample_videos
from vega3d.files import check_output, only_run, read_json, write_json, write_whole
from vega3d.modeling.generator_vega3d import VegaGenerator
from vega3d.runs import versions

TOGETHER = 8  # videos sampled at a time
FPS = 8
GRID, FACTS_FILE = "samples.png", "samples.json"


@dataclass(frozen=True)
class SampleRequest:
    """
    Args:
        seeds: one for each video.
        num_frames: of a video.
        size: edge of its frames [px].
        steps: and `shift`, `solver`: of `sample_videos`.
    """

    seeds: list[int]
    num_frames: int
    size: int
    steps: int
    shift: float
    solver: Solver


def make_samples(
    generator: VegaGenerator,
    request: SampleRequest,
    output: Path,
    with_videos: bool,
    name: str,
    on_step: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """
    Args:
        generator: loaded from files that hold all of it.
        request: what is made.
        output: folder, is made.
        with_videos: MP4 files beside the grid; for them PyAV is needed.
        name: of the generator, for `samples.json`.
        on_step: called with the solver's steps newly done and those of all.

    Returns:
        What is in `samples.json`.

    Raises:
        ValueError: as `sample_videos` does; for weights that are not in files; if files would be lost, or another run
            writes the folder.
    """
    if generator.files is None:
        raise ValueError("The generator was not loaded from files: there is nothing to sample from.")
    check_samples(output, request.seeds)
    output.mkdir(parents=True, exist_ok=True)
    with only_run(output):
        return samples_in(generator, generator.files, request, output, with_videos, name, on_step)


def samples_in(
    generator: VegaGenerator,
    folder: Path,
    request: SampleRequest,
    output: Path,
    with_videos: bool,
    name: str,
    on_step: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """What `make_samples` does once the folder is held."""
    device = generator.prompt_embeds.device
    transformer = WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32).to(device)
    vae = AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32).to(device)
    prompt = padded_prompt(generator.prompt_embeds.float(), generator.config.prompt_length)
    groups = [request.seeds[start : start + TOGETHER] for start in range(0, len(request.seeds), TOGETHER)]
    made = []
    for seeds in groups:
        made += list(
            sample_videos(
                transformer.eval(),
                vae.eval(),
                prompt,
                seeds=seeds,
                num_frames=request.num_frames,
                height=request.size,
                width=request.size,
                steps=request.steps,
                shift=request.shift,
                solver=request.solver,
                on_step=None if on_step is None else lambda done: on_step(done, request.steps * len(groups)),
            )
        )
    files = write_samples(output, request.seeds, made, with_videos and request.num_frames > 1)
    facts = {"generator": name, **asdict(request), "generator_files": generator.files_hash(), "files": files}
    facts |= {"fps": FPS, "device": device.type, "versions": versions("torch", "diffusers")}
    write_json(output / FACTS_FILE, facts)
    return facts


def write_samples(output: Path, seeds: list[int], videos: list, with_videos: bool) -> list[str]:
    save_picture(output / GRID, grid_of_videos(np.stack(videos)))
    if not with_videos:
        return [GRID]
    from vega3d.video_files import write_video  # needs PyAV, which a machine for training may lack

    for seed, video in zip(seeds, videos, strict=True):
        write_whole(output / video_name(seed), partial(write_video, frames=video, fps=FPS))
    return [GRID, *map(video_name, seeds)]


def video_name(seed: int) -> str:
    return f"video-{seed}.mp4"


def check_samples(output: Path, seeds: Sequence[int]) -> None:
    """Raises ValueError, before anything is made, if a file would be lost that an earlier run did not make."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is no folder. Give one for the samples.")
    facts = output / FACTS_FILE
    known: list = [FACTS_FILE]
    if facts.exists():
        found = read_json(facts, "Give another folder.")
        if "generator_files" not in found or not isinstance(found.get("files"), list):
            raise ValueError(f"{facts} is not of `sample` and would be lost. Give another folder.")
        known += found["files"]
    for name in (FACTS_FILE, GRID, *map(video_name, seeds)):
        check_output(output / name, new_folders=True)
        if (output / name).exists() and name not in known:
            raise ValueError(f"{output / name} is not of an earlier run and would be lost. Give another folder.")
