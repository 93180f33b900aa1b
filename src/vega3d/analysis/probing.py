"""Probes over blocks, noise levels, modes and sizes: trained on clips of some scenes, tested on clips of others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vega3d.analysis.cells import (
    Plan,
    Reader,
    Reading,
    cell_facts,
    part_key,
    read_part,
    reading,
    variant_for,
    write_part,
)
from vega3d.analysis.clips import ClipSource, PosedClip, ReadOptions
from vega3d.analysis.layouts import read_clip
from vega3d.analysis.probes import (
    Moments,
    Targets,
    fit_probe,
    position_features,
    predict,
    probe_figures,
    token_targets,
)
from vega3d.analysis.sweep import clip_facts
from vega3d.features.identity import feature_identity
from vega3d.modeling.generator_vega3d import VegaGenerator
from vega3d.processing.generator_frames_vega3d import FrameSettings

HELD_OUT = 5  # every fifth training scene chooses the strength of the ridge
BASELINES = ("mean", "position")
KEPT_BYTES = 4 << 30  # of clips that are kept between noise levels and families; what is beyond is read each time


def check_scenes(train: Sequence[ClipSource], test: Sequence[ClipSource]) -> None:
    """Raises ValueError unless there are two training scenes at least, and none of them is tested on."""
    training = {source.scene for source in train}
    shared = sorted(training & {source.scene for source in test})
    if shared:
        raise ValueError(
            f"{len(shared)} scenes are both trained and tested on, the first is {shared[0]}. Separate them."
        )
    if len(training) < 2 or not test:
        raise ValueError(
            f"Got {len(training)} training scenes and {len(test)} test clips, but a probe needs 2 scenes (one chooses "
            "the strength of the ridge) and 1 clip. Give more."
        )


def held_out_scenes(train: Sequence[ClipSource]) -> set[str]:
    """The training scenes that choose the strength of the ridge: every fifth one, in alphabetical order."""
    return set(sorted({source.scene for source in train})[::HELD_OUT])


class ClipShelf:
    """Clips that were read, and their tokens' targets: each is needed for every noise level and family.

    Args:
        options: how clips are read.
        size: bytes that are kept.
    """

    def __init__(self, options: ReadOptions | None, size: int = KEPT_BYTES):
        self.options, self.left = options, size
        self._clips: dict[ClipSource, PosedClip] = {}
        self._targets: dict[tuple, Targets] = {}

    def clip(self, source: ClipSource) -> PosedClip:
        if source in self._clips:
            return self._clips[source]
        clip = read_clip(source, self.options)
        if self._has_room(clip.frames.nbytes + clip.depth.nbytes):
            self._clips[source] = clip
        return clip

    def targets(self, source: ClipSource, given: Reading) -> Targets:
        key = source, str(given.fit), len(given.clip)
        if key in self._targets:
            return self._targets[key]
        targets = token_targets(given.clip, given.fit)
        if self._has_room(targets.values.nbytes + targets.valid.nbytes):
            self._targets[key] = targets
        return targets

    def _has_room(self, size: int) -> bool:
        if size > self.left:
            return False
        self.left -= size
        return True


def probe_rows(
    generator: VegaGenerator,
    train: Sequence[ClipSource],
    test: Sequence[ClipSource],
    plan: Plan,
    options: ReadOptions | None = None,
    parts: Path | None = None,
    reader: Reader = VegaGenerator.read,
    on_part: Callable[[int], None] | None = None,
) -> list[dict]:
    """
    Args:
        generator: loaded from files; the controls are variants over them.
        train, test: clips of different scenes.
        plan: what is measured; `voxel` and `seed` count for nothing.
        options: how clips are read.
        parts: folder for the parts of the run, to continue from; None keeps nothing.
        reader: gives the features.
        on_part: called with the number of clips newly read; there are `plan.num_parts` of all clips together.

    Returns:
        A row for each test clip and cell, like those of `correspondence_rows`, with `probe_figures` and the chosen
        strengths; and rows of the families `mean` and `position`, which see no features.

    Raises:
        ValueError: if a scene is in both, there are fewer than two training scenes, or a clip cannot be read.
    """
    check_scenes(train, test)
    rows: list[dict] = []
    shelf = ClipShelf(options)
    for family in plan.families:
        for mode in plan.modes:
            variant = variant_for(generator, plan, family, mode)
            for area in plan.areas:
                frames = replace(plan.frames, max_area=area)
                run = ProbeRun(variant, train, test, frames, shelf, reader, on_part or (lambda count: None))
                for timestep in plan.timesteps_of(family):
                    rows += run.rows(timestep, plan.blocks_of(family), parts)
                if family == plan.families[0]:
                    rows += run.baseline_rows()
    return rows


class ProbeRun:
    """Probes of one variant at one size."""

    def __init__(
        self,
        variant: VegaGenerator,
        train: Sequence[ClipSource],
        test: Sequence[ClipSource],
        frames: FrameSettings,
        shelf: ClipShelf,
        reader: Reader,
        on_part: Callable[[int], None],
    ):
        self.variant, self.train, self.test, self.frames = variant, train, test, frames
        self.shelf, self.reader, self.on_part = shelf, reader, on_part
        self.held_out = held_out_scenes(train)
        self._content: list[str] | None = None

    def readings(self, sources: Sequence[ClipSource]) -> Iterator[tuple[Reading, Targets]]:
        for source in sources:
            given = reading(self.shelf.clip(source), self.variant.config, self.frames)
            yield given, self.shelf.targets(source, given)

    @property
    def content(self) -> list[str]:
        """Hashes of all clips: a probe depends on each of them."""
        if self._content is None:
            clips = [*self.train, *self.test]
            config = self.variant.config
            self._content = [reading(self.shelf.clip(source), config, self.frames).content for source in clips]
        return self._content

    def rows(self, timestep: int, blocks: Sequence[int], parts: Path | None) -> list[dict]:
        key = None
        if parts is not None:
            identity = feature_identity(self.variant, blocks, timestep)
            place = [self.frames.max_area, timestep]
            key = part_key("probe", self.content, len(self.train), identity, place)
        found = None if key is None else read_part(parts, key)
        if found is not None:
            self.on_part(len(self.train) + len(self.test))
            return found
        weights = self.fit(timestep, blocks)
        rows = []
        for given, targets in self.readings(self.test):
            for block, features in self.hidden(given, timestep, blocks).items():
                weight, strengths = weights[block]
                facts = {**cell_facts(self.variant, self.frames.max_area, timestep, block), **clip_facts(given)}
                rows.append({**facts, **figures_of(features, targets, weight), **strengths})
            self.on_part(1)
        return write_part(parts if key else None, key or "", rows)

    def fit(self, timestep: int, blocks: Sequence[int]) -> dict[int, tuple[torch.Tensor, dict]]:
        """Weights and strengths of each block's probe."""
        moments: dict[tuple[int, bool], Moments] = {}
        for given, targets in self.readings(self.train):
            held_out = given.clip.scene in self.held_out
            for block, features in self.hidden(given, timestep, blocks).items():
                channels = features.shape[-1]
                known = moments.setdefault((block, held_out), Moments(channels, self.variant.device))
                known.add(*chosen_tokens(features, targets))
            self.on_part(1)
        return {block: fitted(moments[block, False], moments[block, True]) for block in blocks}

    def hidden(self, given: Reading, timestep: int, blocks: Sequence[int]) -> dict[int, torch.Tensor]:
        _, hidden = next(iter(self.reader(self.variant, given.frames, blocks, [timestep])))
        return {block: features.to(self.variant.device) for block, features in hidden.items()}

    def baseline_rows(self) -> list[dict]:
        """Rows of probes that see no features: the mean of the training tokens, and the token's place alone."""
        moments: dict[tuple[str, bool], Moments] = {}
        for given, targets in self.readings(self.train):
            for name, features in baseline_features(given).items():
                place = name, given.clip.scene in self.held_out
                known = moments.setdefault(place, Moments(features.shape[-1]))
                known.add(*chosen_tokens(features, targets))
        rows = []
        weights = {name: fitted(moments[name, False], moments[name, True]) for name in BASELINES}
        for given, targets in self.readings(self.test):
            for name, features in baseline_features(given).items():
                weight, strengths = weights[name]
                facts = cell_facts(self.variant, self.frames.max_area, 0, 0)
                facts |= {"family": name, "timestep": None, "block": None}
                rows.append({**facts, **clip_facts(given), **figures_of(features, targets, weight), **strengths})
        return write_part(None, "", rows)


def fitted(moments: Moments, held_out: Moments) -> tuple[torch.Tensor, dict]:
    weight, strengths = fit_probe(moments, held_out)
    return weight, {f"{name}_strength": strength for name, strength in strengths.items()}


def baseline_features(given: Reading) -> dict[str, torch.Tensor]:
    """float[T, rows, columns, C] of each baseline."""
    rows, columns = given.fit.grid
    position = position_features(given.fit).reshape(1, rows, columns, -1).expand(len(given.clip), -1, -1, -1)
    return {"mean": torch.zeros(*position.shape[:3], 1, dtype=position.dtype), "position": position}


def chosen_tokens(features: torch.Tensor, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
    """float[M, C] and float[M, 4] of the valid tokens."""
    valid = torch.from_numpy(targets.valid)
    values = torch.from_numpy(targets.values[targets.valid])
    return features.flatten(1, 2)[valid.to(features.device)], values.to(features.device)


def figures_of(features: torch.Tensor, targets: Targets, weight: torch.Tensor) -> dict[str, float]:
    """Figures of one test clip.

    Raises:
        ValueError: if it has no token with depth and normal.
    """
    if not np.any(targets.valid):
        raise ValueError("A test clip has no token with depth and a normal. Check its depth, or leave it out.")
    tokens, values = chosen_tokens(features, targets)
    return probe_figures(predict(tokens, weight), values.cpu().numpy())
