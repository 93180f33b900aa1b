"""Videos from a generator, by diffusers' own pipeline of Wan and its schedulers."""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

from vega3d.modeling.configuration_vega3d import NUM_TRAIN_TIMESTEPS

Solver = Literal["unipc", "euler"]
MOST_FRAMES, LARGEST_EDGE = 1025, 4096  # of a video; [px]


def scheduler(solver: Solver, shift: float) -> Any:
    """The scheduler of Wan (UniPC), or plain Euler steps, on sigmas with this shift."""
    if solver == "euler":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=shift)
    return UniPCMultistepScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
    )


def check_sampling(count: int, num_frames: int, height: int, width: int, steps: int, shift: float) -> None:
    """Raises ValueError for what `sample_videos` does not make."""
    if not 1 <= num_frames <= MOST_FRAMES or (num_frames - 1) % 4:
        raise ValueError(f"num_frames is {num_frames}, but must be 1 + 4k up to {MOST_FRAMES}, such as 17.")
    if not all(16 <= edge <= LARGEST_EDGE and edge % 16 == 0 for edge in (height, width)):
        raise ValueError(f"The size is {height} x {width}, but must be in multiples of 16 px, up to {LARGEST_EDGE}.")
    if count < 1 or not 1 <= steps <= NUM_TRAIN_TIMESTEPS or not 0 < shift < math.inf:
        raise ValueError(
            f"There are {count} seeds, {steps} steps and shift {shift}; all must be above 0, with at most "
            f"{NUM_TRAIN_TIMESTEPS} steps."
        )


def sample_videos(
    transformer: WanTransformer3DModel,
    vae: AutoencoderKLWan,
    prompt: torch.Tensor,
    *,
    seeds: list[int],
    num_frames: int,
    height: int,
    width: int,
    steps: int = 30,
    shift: float = 5.0,
    solver: Solver = "unipc",
    on_step: Callable[[int], None] | None = None,
) -> np.ndarray:
    """
    Args:
        transformer: whole, on its device.
        vae: whole.
        prompt: float[prompt_length, text_dim], padded.
        seeds: of the videos; a video depends on its own seed only.
        num_frames: T = 1 + 4k.
        height: [px], a multiple of 16.
        width: [px], a multiple of 16.
        steps: of the solver.
        shift: of the sigmas; 5 spends more steps where the layout is decided.
        solver: of `scheduler`.
        on_step: called with the number of steps newly done.

    Returns:
        uint8[N, T, H, W, 3].

    Raises:
        ValueError: for sizes or a number of frames that the generator cannot make.
    """
    check_sampling(len(seeds), num_frames, height, width, steps, shift)
    pipeline = WanPipeline(None, None, vae, scheduler(solver, shift), transformer)
    pipeline.set_progress_bar_config(disable=True)

    def advance(pipe: Any, index: int, timestep: Any, tensors: dict) -> dict:
        if on_step is not None:
            on_step(1)
        return tensors

    frames = pipeline(
        prompt_embeds=prompt[None].expand(len(seeds), -1, -1),
        height=height,
        width=width,
        num_frames=num_frames,
        num_inference_steps=steps,
        guidance_scale=1.0,  # there is nothing to be guided away from
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        output_type="np",
        callback_on_step_end=advance,
    ).frames
    return np.asarray(np.round(np.asarray(frames) * 255), np.uint8)


def padded_prompt(prompt: torch.Tensor, length: int) -> torch.Tensor:
    """float[length, text_dim]: zero rows follow those of the prompt, as `VegaGenerator` counts them."""
    return torch.nn.functional.pad(prompt, (0, 0, 0, length - len(prompt)))
