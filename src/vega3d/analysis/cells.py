"""What a run measures: which features of which clips, and the parts of it that an earlier run left on disk."""

import contextlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xxhash

from vega3d.analysis.clips import PosedClip
from vega3d.analysis.correspondence import VOXEL
from vega3d.analysis.tokens import FrameFit, frame_fit, generator_frames, read_views, select_views
from vega3d.files import read_json, write_whole
from vega3d.modeling.configuration_vega3d import VegaGeneratorConfig
from vega3d.modeling.generator_vega3d import VegaGenerator
from vega3d.processing.generator_frames_vega3d import FrameSettings

FORMAT = 1  # of parts; raise it when the figures of unchanged features change
CONTROLS = ("random", "noise", "vae")
MODES = ("frame", "views", "clip")
Hidden = dict[int, torch.Tensor]  # block -> float[t, rows, columns, C]
Reader = Callable[[VegaGenerator, torch.Tensor, Sequence[int], Sequence[int]], Iterator[tuple[int, Hidden]]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The features to measure; every combination of its fields.

    Attributes:
        blocks: 0-based.
        timesteps: noise levels asked for, in [0, 1000).
        modes: see `clip_mode` of `VegaGeneratorConfig`.
        areas: of the generator's frames [px].
        families: the model's own, then the controls.
        voxel: edge [m].
        seed: of the voxels that do not correspond.
        frames: how the processor prepares frames, but for their area.
    """

    blocks: tuple[int, ...]
    timesteps: tuple[int, ...]
    modes: tuple[str, ...]
    areas: tuple[int, ...]
    families: tuple[str, ...]
    voxel: float
    seed: int
    frames: FrameSettings

    def blocks_of(self, family: str) -> tuple[int, ...]:
        """The VAE has no blocks: it is read once."""
        return self.blocks[:1] if family == "vae" else self.blocks

    def timesteps_of(self, family: str) -> tuple[int, ...]:
        """Pure noise and clean latents have one noise level each."""
        return self.timesteps[:1] if family in ("noise", "vae") else self.timesteps

    def num_parts(self, num_clips: int) -> int:
        """Passes of the transformer over a clip."""
        return len(self.modes) * len(self.areas) * sum(len(self.timesteps_of(f)) for f in self.families) * num_clips


def make_plan(
    config: VegaGeneratorConfig,
    frames: FrameSettings,
    blocks: Sequence[int] | None = None,
    timesteps: Sequence[int] | None = None,
    modes: Sequence[str] | None = None,
    areas: Sequence[int] | None = None,
    controls: Sequence[str] = (),
    voxel: float = VOXEL,
    seed: int = 0,
) -> Plan:
    """A plan around what the model and its processor are configured to read, for everything that is not given.

    Raises:
        ValueError: for a block, timestep, mode or control that does not exist, or one given twice; for an area that
            is below one token, or given for a processor that crops to a fixed size.
    """
    if areas and frames.frame_size is not None:
        raise ValueError(f"This generator sees crops of {tuple(frames.frame_size)}: leave out the size.")
    for area in areas or ():
        if area < config.cell**2:
            raise ValueError(f"A size of {area} px is below one token of {config.cell} x {config.cell} px. Raise it.")
    chosen_blocks = [block % config.num_layers for block in blocks or [config.block] if check_block(block, config)]
    chosen_timesteps = list(timesteps or [config.timestep])
    for timestep in chosen_timesteps:
        config.check_timestep(timestep)
    for name, values, known in (("mode", modes or (), MODES), ("control", controls, CONTROLS)):
        for value in values:
            if value not in known:
                raise ValueError(f"There is no {name} {value!r}. Choose of {', '.join(known)}.")
    families = (config.family, *controls)
    chosen_modes, chosen_areas = list(modes or [config.clip_mode]), list(areas or [frames.max_area])
    given: dict[str, Sequence] = {
        "blocks": chosen_blocks,
        "timesteps": chosen_timesteps,
        "modes": chosen_modes,
        "sizes": chosen_areas,
    }
    for name, chosen in {**given, "families": list(families)}.items():
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"The {name} {chosen} name one twice. Give each once.")
    return Plan(
        tuple(sorted(chosen_blocks)),
        tuple(sorted(chosen_timesteps)),
        tuple(chosen_modes),
        tuple(chosen_areas),
        families,
        voxel,
        seed,
        frames,
    )


def check_block(block: int, config: VegaGeneratorConfig) -> bool:
    """True; raises ValueError unless the transformer has the block."""
    count = config.num_layers
    if not -count <= block < count:
        raise ValueError(
            f"There is no block {block}: this generator has {count}, so choose in [{-count}, {count - 1}]."
        )
    return True


def variant_for(generator: VegaGenerator, plan: Plan, family: str, mode: str) -> VegaGenerator:
    """The generator of a family and mode, with all blocks that the plan reads."""
    changes: dict = {"family": family, "clip_mode": mode, "block": max(plan.blocks), "extra_blocks": ()}
    if family == "vae":
        changes["noise_draws"] = 1
    return generator.variant(**changes)


class Reading(NamedTuple):
    """A clip as a generator reads it.

    Args:
        clip: the views that its features stand for.
        fit: of the frames.
        frames: uint8[T, 3, height, width], all of them.
        content: hash of the frames and their geometry.
    """

    clip: PosedClip
    fit: FrameFit
    frames: torch.Tensor
    content: str


def reading(clip: PosedClip, config: VegaGeneratorConfig, settings: FrameSettings) -> Reading:
    fit = frame_fit(clip.frames.shape[1], clip.frames.shape[2], settings)
    views = read_views(len(clip), config.clip_mode)
    seen = clip if len(views) == len(clip) else select_views(clip, views)
    frames = generator_frames(clip.frames, fit)
    return Reading(seen, fit, frames, content_hash(clip, frames))


def content_hash(clip: PosedClip, frames: torch.Tensor) -> str:
    digest = xxhash.xxh3_128(f"{clip.name} {clip.scene} {tuple(frames.shape)} {clip.depth.shape}".encode())
    for array in (frames.numpy(), clip.depth, clip.intrinsics, clip.depth_intrinsics, clip.world_from_camera):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def part_key(*values: object) -> str:
    """Name of the part that these decide, as JSON."""
    return xxhash.xxh3_128_hexdigest(json.dumps([FORMAT, *values]).encode())


def read_part(folder: Path | None, key: str) -> list[dict] | None:
    """Rows of a part that an earlier run measured, or None if it is not there."""
    path = None if folder is None else folder / f"{key}.json"
    if path is None or not path.is_file():
        return None
    with contextlib.suppress(ValueError):
        part = read_json(path)
        rows = part.get("rows")
        if part.get("key") == key and isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
            return rows
    logger.warning("%s is damaged; it is measured again.", path)
    return None


def write_part(folder: Path | None, key: str, rows: list[dict]) -> list[dict]:
    """The rows as JSON gives them back, so that a continued run has the same; NaN becomes None."""
    cleaned = [{name: none_for_nan(value) for name, value in row.items()} for row in rows]
    text = json.dumps({"key": key, "rows": cleaned}, allow_nan=False)
    if folder is not None:
        write_whole(folder / f"{key}.json", partial(Path.write_text, data=text, encoding="utf-8"))
    return json.loads(text)["rows"]


def none_for_nan(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value


def cell_facts(variant: VegaGenerator, area: int, timestep: int, block: int) -> dict:
    """The columns that say which features a row is about; None for what does not matter to a family."""
    config = variant.config
    return {
        "family": config.family,
        "mode": config.clip_mode,
        "max_area": area,
        "timestep": None if config.family in ("noise", "vae") else timestep,
        "block": None if config.family == "vae" else block,
    }
