"""Which features are measured: settings of family, mode, size, noise level and block. It needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vega3d.modeling.configuration_vega3d import VegaGeneratorConfig
    from vega3d.processing.generator_frames_vega3d import FrameSettings

VOXEL = 0.1  # [m], as in the paper
CONTROLS = ("random", "noise", "vae")
BASELINES = ("mean", "position")  # of the probes: they see no features
MODES = ("frame", "views", "clip")


class Preset(NamedTuple):
    """How a published study reads a generator."""

    mode: str  # see `clip_mode` of `VegaGeneratorConfig`
    timestep: int
    shift: float  # of the flow-matching schedule
    depth: float  # of the block, as a share of all blocks
    views: int  # frames of a clip

    def block(self, num_layers: int) -> int:
        """The 0-based number of the block in a transformer of so many."""
        return min(num_layers - 1, round(self.depth * num_layers))


PRESETS = {
    "paper": Preset("frame", 300, 5.0, 20 / 30, 32),  # VEGA-3D, arXiv 2603.19235: Wan2.1-T2V-1.3B
    # Index 749 of a schedule of 1000 steps with shift 3 is step 500, sigma 0.5.
    "vidfm3d": Preset("clip", 500, 3.0, 20 / 30, 81),  # arXiv 2512.19949: Wan2.1-T2V-1.3B
    "probing-vlm-vgm": Preset("clip", 500, 3.0, 20 / 40, 81),  # arXiv 2605.28132: Wan2.1-T2V-14B, geometry
}


class Setting(NamedTuple):
    """Which features a row of a result is about. The fields are columns of the rows, in this order."""

    family: str  # of the generator; or a control or a baseline
    mode: str  # see `clip_mode` of `VegaGeneratorConfig`
    max_area: int  # the most pixels of a frame [px^2]
    timestep: int | None  # noise level asked for, in [0, 1000); None where it does not matter to the family
    block: int | None  # 0-based; None where the family has none

    @classmethod
    def of_row(cls, row: Mapping) -> "Setting":
        return cls(*(row[name] for name in cls._fields))

    @property
    def name(self) -> str:
        """Such as `wan, frame, block 20, step 300`."""
        parts = [self.family] if self.family in BASELINES else [self.family, self.mode]
        parts += [f"block {self.block}"] if self.block is not None else []
        parts += [f"step {self.timestep}"] if self.timestep is not None else []
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class SettingGrid:
    """The settings to measure: every combination of blocks, timesteps, modes, areas and families."""

    blocks: tuple[int, ...]  # 0-based numbers of transformer blocks
    timesteps: tuple[int, ...]  # noise levels asked for, in [0, 1000)
    modes: tuple[str, ...]  # see `clip_mode` of `VegaGeneratorConfig`
    areas: tuple[int, ...]  # the most pixels of the generator's frames [px^2]
    families: tuple[str, ...]  # the model's own, then the controls
    shift: float  # of the flow-matching schedule
    voxel: float = VOXEL  # edge of the voxels in which views correspond [m]
    seed: int = 0  # draws the voxels that do not correspond
    frames: "FrameSettings"  # how the processor prepares frames, but for their area

    def family_blocks(self, family: str) -> tuple[int, ...]:
        """The VAE has no blocks: it is read once."""
        return self.blocks[:1] if family == "vae" else self.blocks

    def family_timesteps(self, family: str) -> tuple[int, ...]:
        """Pure noise and clean latents have one noise level each."""
        return self.timesteps[:1] if family in ("noise", "vae") else self.timesteps

    def num_passes(self, num_clips: int) -> int:
        """Passes of the transformer over the clips."""
        levels = sum(len(self.family_timesteps(family)) for family in self.families)
        return len(self.modes) * len(self.areas) * levels * num_clips

    def as_json(self) -> dict:
        """The plan of a result file."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if name != "frames"
        }


def make_grid(
    config: "VegaGeneratorConfig",
    frames: "FrameSettings",
    blocks: Sequence[int] | None = None,
    timesteps: Sequence[int] | None = None,
    modes: Sequence[str] | None = None,
    areas: Sequence[int] | None = None,
    controls: Sequence[str] = (),
    voxel: float = VOXEL,
    seed: int = 0,
    shift: float | None = None,
) -> SettingGrid:
    """A grid around what the model and its processor are configured to read, which stand for what is not given.

    Raises:
        ValueError: for a block, timestep, mode or control that does not exist, or one given twice; for an area that
            is below one token, or given for a processor that crops to a fixed size.
    """
    if areas and frames.frame_size is not None:
        raise ValueError(f"This generator sees crops of {tuple(frames.frame_size)}: leave out the size.")
    for area in areas or ():
        if area < frames.patch_size**2:
            token = f"{frames.patch_size} x {frames.patch_size} px"
            raise ValueError(f"A size of {area} px is below one token of {token}. Raise it.")
    for block in blocks or ():
        if not -config.num_layers <= block < config.num_layers:
            raise ValueError(
                f"There is no block {block}: this generator has {config.num_layers}, so choose in "
                f"[{-config.num_layers}, {config.num_layers - 1}]."
            )
    for timestep in timesteps or ():
        config.check_timestep(timestep)
    for name, values, known in (("mode", modes or (), MODES), ("control", controls, CONTROLS)):
        for value in values:
            if value not in known:
                raise ValueError(f"There is no {name} {value!r}. Choose of {', '.join(known)}.")
    chosen: dict[str, Sequence] = {
        "blocks": [block % config.num_layers for block in blocks or [config.block]],
        "timesteps": timesteps or [config.timestep],
        "modes": modes or [config.clip_mode],
        "sizes": areas or [frames.max_area],
        "families": [config.family, *controls],
    }
    for name, values in chosen.items():
        if len(set(values)) < len(values):
            raise ValueError(f"The {name} {list(values)} name one twice. Give each once.")
    return SettingGrid(
        blocks=tuple(sorted(chosen["blocks"])),
        timesteps=tuple(sorted(chosen["timesteps"])),
        modes=tuple(chosen["modes"]),
        areas=tuple(chosen["sizes"]),
        families=tuple(chosen["families"]),
        shift=config.shift if shift is None else shift,
        voxel=voxel,
        seed=seed,
        frames=frames,
    )
