"""What each option of the generator's speed costs in knowledge: time a clip, and what can be read off its features.

    python benchmarks/knowledge.py GENERATOR --timestep 700 --mode views --cache runs/knowledge --output knowledge.json
    python benchmarks/knowledge.py vega3d-tiny --options reference frame_stride=2 half-size --clips 20 --train-clips 40
    python benchmarks/knowledge.py org/vega3d --data scans/val --train-data scans/train --device cuda

GENERATOR is what `vega3d analyze` takes: a model, or a generator in a folder. The reference is the generator as it is
configured; every other row changes one or two options of it.

**All options are read as the model reads them**: brought to the temporal patches of two frames that the VLM joins, and
to the reference's grid of tokens, by the model's own alignment. So they have the same number of features, and the same
targets. With `frame_stride=2` a patch has the features of its first frame, elsewhere their mean over both frames, and
in `clip` mode that of their latents. Each patch is asked about both of its frames: one probe reads its first frame,
another one its second, and a figure is the mean of both. The turn is that from the same frame of the patch before, two
frames earlier. Correspondence is that of every second patch, as neighbours share a latent in `clip` mode.

Probes are linear (docs/analysis.md) and trained on each option's own features. Options that change features by
rounding alone (types of weights, `compile`) are read by the probes of the reference, on `--rounding-clips` of the test
clips, taken evenly: what the reference's features taught has to be found in them.

Times are those of `encode` for one clip, all options in turn, forwards and backwards. On a CPU the ratio is that of
the processor's time, which other programs disturb less. With `--cache` a run that was killed continues: features of
clips and rows of finished options are there. Cached features are rounded to bfloat16.
"""

import argparse
import math
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from vega3d import VegaGenerator
from vega3d.analysis.clips import ClipSource, PosedClip, ReadOptions
from vega3d.analysis.correspondence import CoVisible, co_visible, correspondence
from vega3d.analysis.layouts import find_clips, make_rooms
from vega3d.analysis.probes import FittedProbes, ProbeTraining
from vega3d.analysis.readings import ProbeOptions, Targets, clip_targets, probe_options
from vega3d.analysis.settings import BASELINES, MODES, Setting
from vega3d.analysis.summary import LIBRARIES, metric_limits, metric_values, shown
from vega3d.analysis.sweep import (
    ClipStore,
    Reader,
    baseline_features,
    check_scenes,
    held_out_scenes,
    part_key,
    read_part,
    write_part,
)
from vega3d.analysis.tokens import FittedClip, FrameFit, at_views, fit_clip, frame_fit, generator_frames
from vega3d.configs import check_count
from vega3d.features.cache import FeatureCache
from vega3d.features.identity import feature_identity
from vega3d.files import check_output, write_json
from vega3d.modeling.alignment_vega3d import align_space, align_time
from vega3d.modeling.quantisation_vega3d import check_float8
from vega3d.processing.generator_frames_vega3d import FrameSettings
from vega3d.runs import versions
from vega3d.statistics import mean_intervals
from vega3d.tables import aligned
from vega3d_cli.common import load_generator

NAME = "benchmarks/knowledge.py"
FORMAT = 1  # of stored rows; raise it when the figures of unchanged features change
REFERENCE = "reference"
METRICS = {"turn_error": "turn [deg]", "depth_rmse": "depth [m]", "centred_retrieval_1": "retrieval"}
FRAMES = ("first", "second")  # of a temporal patch
LEAST_FRAMES = 7  # four temporal patches, of which two are compared
COMPILED = "compile"

Row = dict[str, Any]


class Option(NamedTuple):
    """A way to compute the features; the reference has none of it."""

    changes: Mapping[str, Any] = {}  # fields of `VegaGeneratorConfig`
    dtype: torch.dtype | None = None  # of the weights, if not the reference's
    shrink: int = 1  # by which the edges of the frames are divided
    is_rounding: bool = False  # whether the features are the reference's but for rounding


def speed_options(generator: VegaGenerator, frames: FrameSettings) -> dict[str, Option]:
    """All options by name, the reference first; crops of a fixed size have no half."""
    config, own = generator.config, generator.prompt_embeds.dtype
    modes = {f"clip_mode={mode}": {"clip_mode": mode} for mode in MODES if mode != config.clip_mode}
    exits = sorted({config.block_index // 3, 2 * config.block_index // 3} - {config.block_index})
    read = {f"block={block}": {"block": block} for block in exits}
    strided = {f"frame_stride=2, {name}": {"frame_stride": 2, **changes} for name, changes in modes.items()}
    strided = {name: changes for name, changes in strided.items() if changes["clip_mode"] != "clip"}
    changed = {"frame_stride=2": {"frame_stride": 2}, **modes, **strided, **read, "family=vae": {"family": "vae"}}
    found = {REFERENCE: Option()} | {name: Option(changes) for name, changes in changed.items()}
    if frames.frame_size is None:
        found["half-size"] = Option(shrink=2)
        found["half-size, frame_stride=2"] = Option({"frame_stride": 2}, shrink=2)
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    found |= {name: Option({}, dtype, is_rounding=True) for name, dtype in types.items() if dtype != own}
    lower = {"int8": {"linear_precision": "int8"}, "fp8": {"linear_precision": "fp8"}}
    compiled = {COMPILED: {"compile": True}}
    compiled |= {f"{COMPILED}, {name}": {"compile": True, **changes} for name, changes in lower.items()}
    return found | {name: Option(changes, is_rounding=True) for name, changes in {**lower, **compiled}.items()}


def make_variant(generator: VegaGenerator, option: Option) -> VegaGenerator:
    """The generator with an option; raises ValueError, in one line, where the device or its sizes lack it."""
    if option.dtype is not None:
        generator = generator.variant().to(option.dtype)
    variant = generator.variant(**{"extra_blocks": (), **option.changes})
    check_float8(variant.config.linear_precision, variant.device)
    return variant


# --- What is asked of a clip -----------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """What is asked of the temporal patches of a clip about their first frames, or about their second ones."""

    clip: PosedClip  # the frames
    targets: Targets
    seen: CoVisible | None  # of every second patch; None if no two of them overlap


def ask(clip: PosedClip, fit: FrameFit, readings: Sequence[str]) -> list[Asked]:
    """What is asked about the first frames, and about the second ones; an odd clip repeats its last frame."""
    asked = []
    for place in range(len(FRAMES)):
        views = np.minimum(np.arange(place, len(clip) + place, 2), len(clip) - 1)
        frames = at_views(clip, views)
        try:
            seen = co_visible(at_views(clip, views[1::2]), fit)
        except ValueError:  # says that no two views overlap, which may be so of few frames
            seen = None
        asked.append(Asked(frames, clip_targets(frames, fit, readings), seen))
    return asked


def joined(states: torch.Tensor, variant: VegaGenerator, num_frames: int, grid: tuple[int, int]) -> torch.Tensor:
    """float[patches, rows, columns, C]: hidden states float[t, h, w, C] of a clip as the model fuses them."""
    config, patches = variant.config, (num_frames + 1) // 2
    in_time = align_time(states[None], num_frames, patches, config.clip_mode, config.frame_stride)
    return align_space(in_time, *grid)[0].to(variant.device)


def figures(probes: Sequence[FittedProbes], states: torch.Tensor, asked: Sequence[Asked]) -> Row:
    """Each metric about the first frames, about the second ones, and the mean of both; NaN where it is not known."""
    found = [probe.metrics(states, one.targets) for probe, one in zip(probes, asked, strict=True)]
    for one, metrics in zip(asked, found, strict=True):
        metrics |= {} if one.seen is None else correspondence(states[1::2], one.seen)
    row: Row = {}
    for name in METRICS:
        values = [metrics.get(name, math.nan) for metrics in found]
        row[name] = float(np.mean([value for value in values if not math.isnan(value)] or [math.nan]))
        row |= {f"{name}_{frame}": value for frame, value in zip(FRAMES, values, strict=True)}
    return row


@dataclass(kw_only=True)
class Knowledge:
    """Measures what is read off the features of options, on the same clips."""

    generator: VegaGenerator  # the reference
    frames: FrameSettings  # how frames are prepared for the reference
    train: Sequence[ClipSource]
    test: Sequence[ClipSource]
    views: int  # frames of a clip
    reader: Reader = VegaGenerator.read
    parts: Path | None = None  # folder of rows of finished options
    rounding_clips: int = 20  # most test clips of the options that only round
    probes: ProbeOptions = field(default_factory=lambda: probe_options(["depth", "turn"]))

    def __post_init__(self):
        check_scenes(self.train, self.test)
        self.store = ClipStore(ReadOptions(self.views), self.probes.readings)
        self._asked: dict[ClipSource, list[Asked]] = {}

    def rows(self, options: Mapping[str, Option]) -> Iterator[tuple[str, list[Row] | str]]:
        """Rows of each option, one for each test clip, or why there are none; then those of the baselines."""
        for group in grouped(options):
            name, option = next(iter(group.items()))
            try:
                variant = make_variant(self.generator, option)
            except ValueError as error:
                yield name, str(error)
                continue
            measure, identity = self.measured, [feature_identity(variant), option.shrink]
            if option.is_rounding:
                measure, identity = self.rounded, [*identity, self.rounding_clips]
            yield from self._kept(group, partial(measure, group, variant), identity)
        yield from self._kept(BASELINES, self.baselines, [])

    def _kept(
        self, names: Iterable[str], measure: Callable[[], dict[str, list[Row]]], identity: list
    ) -> Iterator[tuple[str, list[Row]]]:
        """The rows of options that are measured together, of an earlier run if it left them."""
        key = part_key(NAME, FORMAT, sorted(names), identity, self._content) if self.parts else ""
        stored = read_part(self.parts, key)
        if stored is None:
            rows = [{"option": name, **row} for name, found in measure().items() for row in found]
            stored = write_part(self.parts, key, rows)
        for name in dict.fromkeys(row["option"] for row in stored):
            yield name, [row for row in stored if row["option"] == name]

    @cached_property
    def _content(self) -> list:
        """All that the figures depend on but the features."""
        clips = [self.store.clip(source) for source in (*self.train, *self.test)]
        fitted = [fit_clip(clip, self.frames, "frame").content for clip in clips]
        return [fitted, len(self.train), self.probes, feature_identity(self.generator)]

    def asked(self, source: ClipSource) -> list[Asked]:
        if source not in self._asked:
            clip = self.store.clip(source)
            self._asked[source] = ask(clip, self.fit(clip), self.probes.readings)
        return self._asked[source]

    def fit(self, clip: PosedClip, shrink: int = 1) -> FrameFit:
        """How the frames are prepared; with `shrink` they have that part of the reference's edges."""
        fit = frame_fit(*clip.frames.shape[1:3], self.frames)
        if shrink == 1:
            return fit
        settings = replace(self.frames, max_area=fit.height * fit.width // shrink**2)
        return frame_fit(*clip.frames.shape[1:3], settings)

    def features(
        self,
        variant: VegaGenerator,
        source: ClipSource,
        blocks: Sequence[int],
        shrink: int = 1,
        reader: Reader | None = None,
    ) -> dict[int, torch.Tensor]:
        """Joined features of several blocks."""
        clip = self.store.clip(source)
        frames = generator_frames(clip.frames, self.fit(clip, shrink))
        _, hidden = next(iter((reader or self.reader)(variant, frames, blocks, [variant.config.timestep])))
        grid = self.fit(clip).grid
        return {block: joined(states, variant, len(clip), grid) for block, states in hidden.items()}

    def measured(self, group: Mapping[str, Option], variant: VegaGenerator) -> dict[str, list[Row]]:
        """Rows of options that one pass gives, which differ in their block."""
        blocks = {name: option.changes.get("block", variant.config.block_index) for name, option in group.items()}
        shrink = next(iter(group.values())).shrink

        def features(source: ClipSource) -> dict[str, torch.Tensor]:
            found = self.features(variant, source, list(blocks.values()), shrink)
            return {name: found[block] for name, block in blocks.items()}

        title = ", ".join(group)
        fitted = self.fitted(features, title)
        return self.tested(features, fitted, self.test, title)

    def rounded(self, group: Mapping[str, Option], variant: VegaGenerator) -> dict[str, list[Row]]:
        """Rows of an option that only rounds, by the probes of the reference."""
        (name,) = group
        clips = self.test[:: max(1, len(self.test) // self.rounding_clips)][: self.rounding_clips]
        block = variant.config.block_index
        read = VegaGenerator.read  # a cache takes features that differ by `compile` for the same

        def features(source: ClipSource) -> dict[str, torch.Tensor]:
            return {name: self.features(variant, source, [block], reader=read)[block]}

        return self.tested(features, {name: self.reference_probes}, clips, name)

    def baselines(self) -> dict[str, list[Row]]:
        """Rows of the best constant, and of probes that see a token's place alone."""

        def features(source: ClipSource) -> dict[str, torch.Tensor]:
            first, clip = self.asked(source)[0], self.store.clip(source)
            fitted = FittedClip(first.clip, self.fit(clip), torch.empty(0), "")
            found = baseline_features(Setting("", "", 0, None, None), fitted)
            return {setting.family: states for setting, states in found.items()}

        return self.tested(features, self.fitted(features, "baselines"), self.test, "baselines")

    @cached_property
    def reference_probes(self) -> list[FittedProbes]:
        variant = make_variant(self.generator, Option())
        block = variant.config.block_index
        return self.fitted(lambda source: {"": self.features(variant, source, [block])[block]}, REFERENCE)[""]

    def fitted(
        self, features: Callable[[ClipSource], Mapping[str, torch.Tensor]], title: str
    ) -> dict[str, list[FittedProbes]]:
        """The probes of each option, of the first and of the second frames."""
        held_out = held_out_scenes(self.train)
        training: dict[str, list[ProbeTraining]] = {}
        for source in tqdm(self.train, desc=f"{title}: train", unit="clip"):
            for name, states in features(source).items():
                is_mean = name == BASELINES[0]
                known = training.setdefault(name, [ProbeTraining(self.probes, is_mean) for _ in FRAMES])
                for one, asked in zip(known, self.asked(source), strict=True):
                    one.add(states, asked.targets, source.scene in held_out)
        device = self.generator.device
        return {name: [one.fit(device) for one in known] for name, known in training.items()}

    def tested(
        self,
        features: Callable[[ClipSource], Mapping[str, torch.Tensor]],
        probes: Mapping[str, Sequence[FittedProbes]],
        sources: Sequence[ClipSource],
        title: str,
    ) -> dict[str, list[Row]]:
        rows: dict[str, list[Row]] = {name: [] for name in probes}
        for source in tqdm(sources, desc=f"{title}: test", unit="clip"):
            for name, states in features(source).items():
                found = figures(probes[name], states, self.asked(source))
                rows[name].append({"clip": source.name, "scene": source.scene, **found})
        return rows


def grouped(options: Mapping[str, Option]) -> list[dict[str, Option]]:
    """Options that one pass gives are together: the reference, and exits at earlier blocks."""
    exits = {name: option for name, option in options.items() if set(option.changes) == {"block"}}
    whole = {REFERENCE: options[REFERENCE], **exits}
    return [whole, *({name: option} for name, option in options.items() if name not in whole)]


# --- Time ------------------------------------------------------------------------------------------------------------


def time_options(knowledge: Knowledge, options: Mapping[str, Option], repeats: int) -> dict[str, dict]:
    """Medians of the wall clock and of the processor [ms], and of the ratio to the reference of the same turn."""
    generator, clip = knowledge.generator, knowledge.store.clip(knowledge.test[0])
    jobs = {}
    for name, option in options.items():
        frames = generator_frames(clip.frames, knowledge.fit(clip, option.shrink)).to(generator.device)
        jobs[name] = make_variant(generator, option), frames
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for turn in tqdm(range(repeats + 1), desc="times", unit="turn"):
        for name in list(jobs)[:: 1 if turn % 2 else -1]:
            elapsed = milliseconds(*jobs[name])
            if turn:  # the first one warms up
                times[name].append(elapsed)
    clock = 1 if generator.device.type == "cpu" else 0  # the processor's, or that on the wall
    found = {}
    for name, pairs in times.items():
        wall, processor = (statistics.median(values) for values in zip(*pairs, strict=True))
        ratios = [ours[clock] / theirs[clock] for ours, theirs in zip(pairs, times[REFERENCE], strict=True)]
        found[name] = {
            "milliseconds": wall,
            "processor_milliseconds": processor,
            "ratio": statistics.median(ratios),
            "ratios": [min(ratios), max(ratios)],
        }
    return found


def milliseconds(variant: VegaGenerator, frames: torch.Tensor) -> tuple[float, float]:
    """Wall clock and processor time of one clip."""
    start = time.perf_counter(), time.process_time()
    variant.encode([frames])
    if frames.is_cuda:
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start[0]), 1000 * (time.process_time() - start[1])


# --- Results ---------------------------------------------------------------------------------------------------------


def summarise(rows: Sequence[Row], reference: Sequence[Row], resamples: int, seed: int = 0) -> dict:
    """Means with 95 % intervals over scenes, and paired differences from the reference on the same clips."""
    names, scenes = list(METRICS), [row["scene"] for row in rows]
    limits = [metric_limits(name) for name in names]
    means = mean_intervals(scenes, metric_values(rows, names), resamples, seed, limits)
    found = {"clips": len(rows), "scenes": len(set(scenes))}
    found["figures"] = {name: asdict(interval) for name, interval in zip(names, means, strict=True)}
    found["first_and_second_frames"] = {}
    for name in names:
        each = metric_values(rows, [f"{name}_{frame}" for frame in FRAMES])
        found["first_and_second_frames"][name] = [mean.score for mean in mean_intervals(scenes, each, 1)]
    paired = {row["clip"]: row for row in reference}
    if paired and rows is not reference:
        same = [paired[row["clip"]] for row in rows]
        values = metric_values(rows, names) - metric_values(same, names)
        minus = mean_intervals(scenes, values, resamples, seed, [None] * len(names))
        found["minus_reference"] = {name: asdict(interval) for name, interval in zip(names, minus, strict=True)}
    return found


def result_table(result: Mapping) -> list[str]:
    """Lines: time and ratio of each option, its figures, their paired differences, and what was left out."""
    heads = [f"{head}{end}" for head in METRICS.values() for end in ("", ", difference")]
    table = [["option", "ms", "of a processor", "ratio", *heads, "clips"]]
    for name, values in result["options"].items():
        spent = result["times"].get(name)
        times = ["-"] * 3
        if spent:
            times = [f"{spent['milliseconds']:.0f}", f"{spent['processor_milliseconds']:.0f}", f"{spent['ratio']:.2f}"]
        table.append([name, *times, *shown_figures(values), str(values["clips"])])
    return [*aligned(table), *(f"left out: {name}: {reason}" for name, reason in result["left_out"].items())]


def shown_figures(values: Mapping) -> list[str]:
    minus = values.get("minus_reference", {})
    return [text for name in METRICS for text in (shown(values["figures"][name]), shown(minus.get(name)))]


def describe(options: argparse.Namespace, knowledge: Knowledge) -> dict:
    """How the result was made."""
    generator = knowledge.generator
    config, on_gpu = generator.config, generator.device.type == "cuda"
    return {
        "benchmark": NAME,
        "command": shlex.join(["python", NAME, *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": versions(*LIBRARIES),
        "generator_files": generator.files_hash(),
        "setting": {
            "block": config.block_index,
            "timestep": config.timestep,
            "clip_mode": config.clip_mode,
            "dtype": str(generator.prompt_embeds.dtype).removeprefix("torch."),
            "max_area": knowledge.frames.max_area,
            "frames": options.frames,
        },
        "test": clip_names(knowledge.test),
        "train": clip_names(knowledge.train),
        "are_features_rounded_to_bf16": options.cache is not None,
        "repeats": options.repeats,
    }


def clip_names(sources: Sequence[ClipSource]) -> dict:
    names = [source.name for source in sources]
    return {
        "clips": len(names),
        "scenes": len({source.scene for source in sources}),
        "first": names[0],
        "last": names[-1],
    }


def find_sources(options: argparse.Namespace) -> tuple[list[ClipSource], list[ClipSource]]:
    """The clips to train on, and those to test on."""
    found = []
    for data, count, first in (
        (options.train_data, options.train_clips, options.train_first_room),
        (options.data, options.clips, options.first_room),
    ):
        if data is not None:
            found.append(find_clips(data, limit=count))
            continue
        rooms = -(-count // options.trajectories)
        settings = {"num_frames": options.frames, "trajectories": options.trajectories}
        with tqdm(total=rooms, desc=f"rooms from {first}", unit="room") as bar:
            made = make_rooms(rooms, options.split, 1, None, lambda done, bar=bar: bar.update(done), first, **settings)
        found.append(made[:count])
    return found[0], found[1]


def chosen_options(generator: VegaGenerator, frames: FrameSettings, names: Sequence[str] | None) -> dict[str, Option]:
    """Those that are asked for, the reference first; by default all, but `compile` on a GPU alone."""
    known = speed_options(generator, frames)
    for name in names or ():
        if name not in known:
            raise ValueError(f"There is no option {name!r}. Choose of {'; '.join(known)}.")
    on_cpu = generator.device.type == "cpu"
    usual = [name for name in known if not (on_cpu and name.startswith(COMPILED))]
    return {name: known[name] for name in known if name == REFERENCE or name in (names or usual)}


def measure(options: argparse.Namespace) -> dict:
    check_count("--frames", options.frames, LEAST_FRAMES)
    for name in ("clips", "train_clips", "trajectories", "repeats", "rounding_clips"):
        check_count(f"--{name.replace('_', '-')}", vars(options)[name], 1)
    loaded = load_generator(options.generator, options.device)
    given = {"block": options.block, "timestep": options.timestep, "clip_mode": options.mode}
    changes = {name: value for name, value in given.items() if value is not None}
    dtype = torch.bfloat16 if loaded.generator.device.type == "cuda" else torch.float32
    generator = loaded.generator.variant().to(dtype).variant(**{"extra_blocks": (), "frame_stride": 1, **changes})
    chosen = chosen_options(generator, loaded.frames, options.options)
    train, test = find_sources(options)
    kept: dict[str, Any] = {}
    if options.cache is not None:
        kept = {"reader": FeatureCache(options.cache / "features").read, "parts": options.cache / "rows"}
        kept["parts"].mkdir(parents=True, exist_ok=True)
    sizes = {"views": options.frames, "rounding_clips": options.rounding_clips}
    knowledge = Knowledge(generator=generator, frames=loaded.frames, train=train, test=test, **sizes, **kept)
    result = describe(options, knowledge) | measure_options(knowledge, chosen, options.resamples)
    usable = {name: option for name, option in chosen.items() if name in result["options"]}
    return result | {"times": time_options(knowledge, usable, options.repeats)}


def measure_options(knowledge: Knowledge, chosen: Mapping[str, Option], resamples: int) -> dict:
    """`options` and `left_out` of the result; each option is printed as soon as it is measured."""
    found: dict[str, dict] = {"options": {}, "left_out": {}}
    reference: list[Row] = []
    for name, rows in knowledge.rows(chosen):
        if isinstance(rows, str):
            found["left_out"][name] = rows
            print(f"{name}: left out: {rows}", flush=True)
            continue
        reference = rows if name == REFERENCE else reference
        found["options"][name] = summarise(rows, reference, resamples)
        values = zip(METRICS.values(), shown_figures(found["options"][name])[::2], strict=True)
        print(f"{name}: " + ", ".join(f"{head} {value}" for head, value in values), flush=True)
    return found


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python {NAME}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("generator", help="model, or folder of a generator")
    parser.add_argument("--block", type=int, help="of the reference; default: the model's")
    parser.add_argument("--timestep", type=int, help="likewise")
    parser.add_argument("--mode", choices=MODES, help="likewise")
    parser.add_argument("--options", nargs="+", metavar="NAME", help="such as frame_stride=2; default: all")
    parser.add_argument("--frames", type=int, default=17, help="of a clip")
    parser.add_argument("--data", type=Path, help="posed clips to test on; default: rooms are made, and stored")
    parser.add_argument("--train-data", type=Path, help="posed clips of other scenes to train the probes on")
    parser.add_argument("--split", default="validation", help="of rooms that are made")
    parser.add_argument("--first-room", type=int, default=520, help="that is tested on")
    parser.add_argument("--train-first-room", type=int, default=400)
    parser.add_argument("--trajectories", type=int, default=2, help="clips of a room")
    parser.add_argument("--clips", type=int, default=60, help="to test on")
    parser.add_argument("--train-clips", type=int, default=80)
    parser.add_argument("--rounding-clips", type=int, default=20, help="of the options that only round")
    parser.add_argument("--repeats", type=int, default=5, help="times that each option is timed")
    parser.add_argument("--resamples", type=int, default=2000, help="of the intervals")
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--cache", type=Path, help="folder of features and finished rows, to continue from")
    parser.add_argument("--output", type=Path, help="JSON file")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        if options.output is not None:
            check_output(options.output, mark=NAME.encode())
        result = measure(options)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print("\n".join(result_table(result)))
    if options.output is not None:
        write_json(options.output, result)


if __name__ == "__main__":
    main()
