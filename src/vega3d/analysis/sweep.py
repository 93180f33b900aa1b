"""Correspondence and probes over settings x clips, continued from what a killed run left, and a sweep in its folder.

OUT/parts/*.json         finished parts, named by what they depend on; a killed run continues from them
OUT/clips.parquet        a row for each clip and setting (`summary.read_rows`)
OUT/summary.json         each setting with intervals over scenes, and how the run was made
OUT/heatmap_*.png, curves_*.png
"""

import contextlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
import xxhash

from vega3d.analysis.clips import ClipSource, PosedClip, ReadOptions
from vega3d.analysis.correspondence import co_visible, correspondence
from vega3d.analysis.figures import draw_sweep
from vega3d.analysis.layouts import read_clip
from vega3d.analysis.probes import ProbeTraining, position_features, time_features
from vega3d.analysis.readings import OF_OBJECTS, ProbeOptions, Targets, clip_targets
from vega3d.analysis.settings import BASELINES, Setting, SettingGrid
from vega3d.analysis.summary import make_result, read_rows, write_result, write_rows
from vega3d.analysis.tokens import FittedClip, fit_clip
from vega3d.extras import optional_module
from vega3d.features.identity import feature_identity
from vega3d.files import check_input, is_free, only_run, read_json, write_whole
from vega3d.modeling.generator_vega3d import VegaGenerator
from vega3d.processing.generator_frames_vega3d import FrameSettings

FORMAT = 1  # of parts; raise it when the metrics of unchanged features change
HELD_OUT = 5  # every fifth training scene chooses the strength of the ridge
STORED_BYTES = 4 << 30  # of clips held between noise levels and families; what is beyond is read each time

Hidden = dict[int, torch.Tensor]  # block -> float[t, rows, columns, C]
Reader = Callable[[VegaGenerator, torch.Tensor, Sequence[int], Sequence[int]], Iterator[tuple[int, Hidden]]]
Features = Callable[[FittedClip], Mapping[Setting, torch.Tensor]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class SettingGroup:
    """Settings of one variant of the generator at one size of frames. They differ in noise level and block.

    One pass of the transformer over a clip gives all blocks of a noise level.
    """

    variant: VegaGenerator  # has the family and mode of the settings, and loads their last block
    frames: FrameSettings  # how frames are prepared, area included
    timesteps: tuple[int, ...]  # noise levels asked for
    blocks: tuple[int, ...]  # read at each noise level

    def setting(self, timestep: int, block: int) -> Setting:
        family = self.variant.config.family
        return Setting(
            family,
            self.variant.config.clip_mode,
            self.frames.max_area,
            None if family in ("noise", "vae") else timestep,
            None if family == "vae" else block,
        )

    def fit(self, clip: PosedClip) -> FittedClip:
        return fit_clip(clip, self.frames, self.variant.config.clip_mode)

    def identity(self, timestep: int) -> str:
        """All that the features of a noise level depend on but the clip, as JSON."""
        return feature_identity(self.variant, self.blocks, timestep)


def setting_groups(generator: VegaGenerator, grid: SettingGrid) -> Iterator[SettingGroup]:
    """All settings of a grid, grouped by what one pass can give; the controls are variants of the loaded generator."""
    for family in grid.families:
        for mode in grid.modes:
            changes: dict = {"family": family, "clip_mode": mode, "block": max(grid.blocks), "extra_blocks": ()}
            changes |= {"shift": grid.shift, "frame_stride": 1}  # every frame has a reading
            if family == "vae":
                changes["noise_draws"] = 1
            variant = generator.variant(**changes)
            for area in grid.areas:
                yield SettingGroup(
                    variant=variant,
                    frames=replace(grid.frames, max_area=area),
                    timesteps=grid.family_timesteps(family),
                    blocks=grid.family_blocks(family),
                )


class ClipStore:
    """Clips in memory, at most `size` bytes, with their targets: needed for every noise level and family."""

    def __init__(self, options: ReadOptions, readings: Sequence[str], size: int = STORED_BYTES):
        self.options, self.readings, self.left = options, readings, size
        self._clips: dict[ClipSource, PosedClip] = {}
        self._targets: dict[tuple[str, int], Targets] = {}

    def clip(self, source: ClipSource) -> PosedClip:
        if source in self._clips:
            return self._clips[source]
        clip = read_clip(source, self.options)
        arrays = [clip.frames, clip.depth, *([] if clip.instances is None else [clip.instances])]
        if self._has_room(sum(array.nbytes for array in arrays)):
            self._clips[source] = clip
        return clip

    def targets(self, fitted: FittedClip) -> Targets:
        key = fitted.content, len(fitted.clip)
        if key in self._targets:
            return self._targets[key]
        targets = clip_targets(fitted.clip, fitted.fit, self.readings)
        if self._has_room(targets.nbytes):
            self._targets[key] = targets
        return targets

    def _has_room(self, size: int) -> bool:
        if size > self.left:
            return False
        self.left -= size
        return True


@dataclass(kw_only=True)
class Measurement:
    """What is measured, and what it takes: the features of a generator in all settings of a grid."""

    generator: VegaGenerator  # loaded from files; the controls are variants of it
    grid: SettingGrid  # all settings that are measured
    options: ReadOptions = field(default_factory=ReadOptions)  # how clips are read
    probes: ProbeOptions = field(default_factory=ProbeOptions)  # what probes read, and of which kind they are
    parts: Path | None = None  # folder for the parts of the run, to continue from; None stores nothing
    reader: Reader = VegaGenerator.read  # gives the features of a variant, such as `FeatureCache(...).read`
    # called with the number of passes over a clip that are newly done, or found done; correspondence takes
    # `grid.num_passes` of its clips, and probes of test and training clips together
    on_progress: Callable[[int], None] = lambda count: None
    stored_bytes: int = STORED_BYTES  # the most bytes of clips that are held in memory

    def __post_init__(self):
        self.store = ClipStore(self.options, self.probes.readings, self.stored_bytes)

    def groups(self) -> Iterator[SettingGroup]:
        return setting_groups(self.generator, self.grid)

    def clips(self, group: SettingGroup, sources: Iterable[ClipSource]) -> Iterator[FittedClip]:
        """The clips as the generator of these settings reads them."""
        for source in sources:
            yield group.fit(self.store.clip(source))


def correspondence_rows(run: Measurement, sources: Sequence[ClipSource]) -> list[dict]:
    """Correspondence in every setting on every clip.

    Returns:
        A row for each clip and setting: the columns of `Setting`, `clip`, `scene`, `height`, `width`, `views`,
        `left_out`, and the metrics of `correspondence`. None stands for NaN.

    Raises:
        ValueError: if a clip cannot be read, or no two of its views overlap.
    """
    rows: list[dict] = []
    for group in run.groups():
        for clip in run.clips(group, sources):
            for part in correspondence_parts(run, group, clip):
                rows += part
                run.on_progress(1)
    return rows


def correspondence_parts(run: Measurement, group: SettingGroup, clip: FittedClip) -> Iterator[list[dict]]:
    """Rows of one clip, noise level by noise level: one VAE pass, and only what no earlier run left is computed."""
    keys = {
        timestep: part_key(
            "correspondence",
            clip.content,
            group.identity(timestep),
            [group.frames.max_area, timestep, list(clip.clip.left_out)],
            [run.grid.voxel, run.grid.seed],
        )
        for timestep in group.timesteps
    }
    stored = {timestep: read_part(run.parts, key) for timestep, key in keys.items()}
    missing = [timestep for timestep, rows in stored.items() if rows is None]
    if missing:
        seen = co_visible(clip.clip, clip.fit, run.grid.voxel, run.grid.seed)
        computed = run.reader(group.variant, clip.frames, group.blocks, missing)
    for timestep, rows in stored.items():
        if rows is None:
            _, hidden = next(computed)
            rows = [
                {
                    **group.setting(timestep, block)._asdict(),
                    **clip_columns(clip),
                    **correspondence(features.to(group.variant.device), seen),
                }
                for block, features in hidden.items()
            ]
            rows = write_part(run.parts, keys[timestep], rows)
        yield rows


def clip_columns(clip: FittedClip) -> dict:
    """The columns that say which clip a row is about."""
    return {
        "clip": clip.clip.name,
        "scene": clip.clip.scene,
        "height": clip.fit.height,
        "width": clip.fit.width,
        "views": len(clip.clip),
        "left_out": len(clip.clip.left_out),
    }


def probe_rows(run: Measurement, train: Sequence[ClipSource], test: Sequence[ClipSource]) -> list[dict]:
    """Probes in every setting, trained on some clips and tested on others; voxel and seed count for nothing.

    Returns:
        A row for each test clip and setting, like those of `correspondence_rows`, with the metrics of the readings and
        the chosen strengths; and rows of the families `mean` and `position`, which see no features.

    Raises:
        ValueError: if a scene is in both, there are fewer than two training scenes, or a clip cannot be read.
    """
    check_scenes(train, test)
    rows: list[dict] = []
    for group in run.groups():
        clips = [] if run.parts is None else [clip_key(run, clip) for clip in run.clips(group, (*train, *test))]
        place = [clips, len(train), group.frames.max_area, run.probes]
        for timestep in group.timesteps:
            key = part_key("probe", *place, group.identity(timestep), timestep) if run.parts else ""
            features = hidden_states(run, group, timestep)
            rows += probe_part(run, group, key, features, train, test, run.on_progress)
        if group.variant.config.family == run.grid.families[0]:
            setting = group.setting(0, 0)
            key = part_key("baselines", *place, setting)
            features = partial(baseline_features, setting)
            rows += probe_part(run, group, key, features, train, test, lambda count: run.on_progress(0))
    return rows


def probe_part(
    run: Measurement,
    group: SettingGroup,
    key: str,
    features: Features,
    train: Sequence[ClipSource],
    test: Sequence[ClipSource],
    on_progress: Callable[[int], None],
) -> list[dict]:
    """The rows of `tested_probes`, of an earlier run if it left them."""
    part = read_part(run.parts, key)
    if part is None:
        return write_part(run.parts, key, tested_probes(run, group, features, train, test, on_progress))
    on_progress(len(train) + len(test))
    return part


def clip_key(run: Measurement, clip: FittedClip) -> str:
    """Names a clip in the keys of probes: its content, and its ids of objects where they are read."""
    ids = clip.clip.instances
    if ids is None or not set(run.probes.readings) & set(OF_OBJECTS):
        return clip.content
    return f"{clip.content} {xxhash.xxh3_128_hexdigest(ids.tobytes())}"


def hidden_states(run: Measurement, group: SettingGroup, timestep: int) -> Features:
    """Gives the features of a clip in all settings of a noise level."""

    def features(clip: FittedClip) -> dict[Setting, torch.Tensor]:
        _, hidden = next(iter(run.reader(group.variant, clip.frames, group.blocks, [timestep])))
        return {group.setting(timestep, block): states.to(group.variant.device) for block, states in hidden.items()}

    return features


def baseline_features(setting: Setting, clip: FittedClip) -> dict[Setting, torch.Tensor]:
    """float[T, rows, columns, C] without the picture: a constant, from which the mean is learnt, and the place."""
    views, (rows, columns) = len(clip.clip), clip.fit.grid
    place = position_features(clip.fit).reshape(1, rows, columns, -1).expand(views, -1, -1, -1)
    time = time_features(views)[:, None, None].expand(-1, rows, columns, -1)
    constant = torch.zeros(views, rows, columns, 1, dtype=place.dtype)
    return {
        setting._replace(family=name, timestep=None, block=None): features
        for name, features in zip(BASELINES, (constant, torch.cat([place, time], dim=-1)), strict=True)
    }


def tested_probes(
    run: Measurement,
    group: SettingGroup,
    features: Features,
    train: Sequence[ClipSource],
    test: Sequence[ClipSource],
    on_progress: Callable[[int], None],
) -> list[dict]:
    """Probes of each setting that `features` gives, trained, and its row for each test clip."""
    held_out = held_out_scenes(train)
    training: dict[Setting, ProbeTraining] = {}
    for clip in run.clips(group, train):
        targets = run.store.targets(clip)
        for setting, states in features(clip).items():
            known = training.setdefault(setting, ProbeTraining(run.probes, is_mean=setting.family == BASELINES[0]))
            known.add(states, targets, clip.clip.scene in held_out)
        on_progress(1)
    device = group.variant.device
    probes = {setting: training.pop(setting).fit(device, lambda: on_progress(0)) for setting in list(training)}
    rows = []
    for clip in run.clips(group, test):
        targets = run.store.targets(clip)
        for setting, states in features(clip).items():
            metrics = probes[setting].metrics(states, targets)
            rows.append({**setting._asdict(), **clip_columns(clip), **metrics})
        on_progress(1)
    return rows


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


def run_sweep(
    run: Measurement, test: Sequence[ClipSource], train: Sequence[ClipSource], output: Path, metadata: Mapping
) -> dict:
    """Measures, and writes table, summary and pictures.

    Args:
        run: what is measured; its parts go into the output.
        test: the clips that are measured.
        train: clips of other scenes, to train probes on; none leaves probes out.
        output: folder; new, or of an earlier sweep, whose parts are used where they are of the same.
        metadata: for the summary: model, data, command.

    Returns:
        The values of `summary.json`, and `clips`, the rows.

    Raises:
        ValueError: if the folder holds something else, another run writes it, or a clip cannot be used.
    """
    check_free(output)
    if train:
        check_scenes(train, test)
    run = replace(run, parts=output / "parts")
    (output / "parts").mkdir(parents=True, exist_ok=True)
    with only_run(output):
        rows = correspondence_rows(run, test)
        if train:
            rows = joined(rows, probe_rows(run, train, test))
        result = make_result(rows, "sweep", metadata, seed=run.grid.seed)
        write_rows(output / "clips.parquet", rows)
        write_result(output / "summary.json", {name: value for name, value in result.items() if name != "clips"})
        draw_sweep(output, result["cells"])
    return result


def sweep_rows(folder: Path) -> list[dict]:
    """A row for each clip and setting of a sweep; raises ValueError if the folder holds none that is finished."""
    path = folder / "clips.parquet"
    if not path.is_file():
        raise ValueError(f"{path} is not there. Give the folder of a finished sweep.")
    pyarrow = optional_module("pyarrow")
    try:
        return read_rows(check_input(path))
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} cannot be read: {error}. Run the sweep again.") from error


def check_free(output: Path) -> None:
    """Raises ValueError unless the folder is free, or of a sweep."""
    if (output / "parts").is_dir():
        return
    if not is_free(output):
        raise ValueError(f"{output} is not empty and holds no sweep. Choose another folder.")


def joined(rows: Sequence[dict], more: Sequence[dict]) -> list[dict]:
    """One row for each clip and setting, with the metrics of both."""
    merged: dict[tuple, dict] = {}
    for row in (*rows, *more):
        place = Setting.of_row(row), row["clip"]
        merged[place] = {**merged.get(place, {}), **row}
    return list(merged.values())
