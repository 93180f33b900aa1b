"""Correspondence over blocks, noise levels, modes and sizes: one VAE pass a clip, all blocks in one pass of a level.

A killed run continues from the parts that it left, one for each clip, family, mode, size and noise level.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

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
from vega3d.analysis.clips import ClipSource, ReadOptions
from vega3d.analysis.correspondence import co_visible, correspondence
from vega3d.analysis.layouts import read_clip
from vega3d.features.identity import feature_identity
from vega3d.modeling.generator_vega3d import VegaGenerator


def correspondence_rows(
    generator: VegaGenerator,
    sources: Sequence[ClipSource],
    plan: Plan,
    options: ReadOptions | None = None,
    parts: Path | None = None,
    reader: Reader = VegaGenerator.read,
    on_part: Callable[[int], None] | None = None,
) -> list[dict]:
    """
    Args:
        generator: loaded from files; the controls are variants over them.
        sources: clips.
        plan: what is measured.
        options: how clips are read.
        parts: folder for the parts of the run, to continue from; None keeps nothing.
        reader: gives the features, such as `FeatureCache(...).read`.
        on_part: called with the number of parts newly there; there are `plan.num_parts` of each clip.

    Returns:
        A row for each clip and cell: `family`, `mode`, `max_area`, `timestep`, `block`, `clip`, `scene`, `height`,
        `width`, `views`, `left_out`, and the figures of `correspondence`. None stands for NaN, and for the timestep
        and block where a control has none.

    Raises:
        ValueError: if a clip cannot be read, or no two of its views overlap.
    """
    rows: list[dict] = []
    for family in plan.families:
        for mode in plan.modes:
            variant = variant_for(generator, plan, family, mode)
            for source in sources:
                clip = read_clip(source, options)
                for area in plan.areas:
                    given = reading(clip, variant.config, replace(plan.frames, max_area=area))
                    for part in clip_parts(variant, given, area, plan, parts, reader):
                        rows += part
                        if on_part is not None:
                            on_part(1)
    return rows


def clip_parts(
    variant: VegaGenerator, given: Reading, area: int, plan: Plan, parts: Path | None, reader: Reader
) -> Iterator[list[dict]]:
    """Rows of one clip, noise level by noise level; only what no earlier run left is computed."""
    family = variant.config.family
    blocks, timesteps = plan.blocks_of(family), plan.timesteps_of(family)
    keys = {
        timestep: part_key(
            "correspondence",
            given.content,
            feature_identity(variant, blocks, timestep),
            [area, timestep, list(given.clip.left_out)],
            [plan.voxel, plan.seed],
        )
        for timestep in timesteps
    }
    found = {timestep: read_part(parts, key) for timestep, key in keys.items()}
    missing = [timestep for timestep, rows in found.items() if rows is None]
    if missing:
        seen = co_visible(given.clip, given.fit, plan.voxel, plan.seed)
        computed = reader(variant, given.frames, blocks, missing)
    for timestep, known in found.items():
        if known is not None:
            yield known
            continue
        _, hidden = next(computed)
        rows = [
            {
                **cell_facts(variant, area, timestep, block),
                **clip_facts(given),
                **correspondence(features.to(variant.device), seen),
            }
            for block, features in hidden.items()
        ]
        yield write_part(parts, keys[timestep], rows)


def clip_facts(given: Reading) -> dict:
    """The columns that say which clip a row is about."""
    return {
        "clip": given.clip.name,
        "scene": given.clip.scene,
        "height": given.fit.height,
        "width": given.fit.width,
        "views": len(given.clip),
        "left_out": len(given.clip.left_out),
    }
