"""What Python gives to the public loaders and configs by mistake: a ValueError that says so, before any work."""

import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedConfig

from bad_values import INPUTS, NEW_FOLDERS, special_files
from evaluation.evaluation_data import question_records
from tiny_checkpoints import FROZEN
from vega3d import VegaConfig, VegaGenerator, VegaGeneratorConfig, VegaProcessor
from vega3d.analysis.clips import evenly
from vega3d.analysis.layouts import find_clips
from vega3d.evaluation.answerers import ChanceAnswerer
from vega3d.evaluation.report import read_result
from vega3d.evaluation.run import evaluate
from vega3d.evaluation.vsibench import load_vsibench, take_balanced
from vega3d.features.cache import FeatureCache
from vega3d.hub.assemble import assemble, describe
from vega3d.hub.convert import convert
from vega3d.hub.load import load_vega
from vega3d.processing.video_vega3d import clip_from_frames, read_images, read_video
from vega3d.questions import SpatialQuestion
from vega3d.rooms.dataset import DatasetSettings
from vega3d.rooms.dataset.dataset import synthesize
from vega3d.rooms.scene.furniture import load_furniture
from vega3d.shipped import example_clip
from vega3d.training import DataSource, VegaCollator, load_examples, make_config, read_config
from vega3d.training.shards import scan_shard

NOT_NUMBERS: tuple[Any, ...] = ("", "2", "abc", [], [2], {}, (2,), {2}, object(), 2j, np.array([1, 2]), b"2", True)
NOT_FINITE = (math.nan, math.inf, -math.inf)
NOT_COUNTS = (*NOT_NUMBERS, *NOT_FINITE, 0, -1, 1.5, -(10**400))
NOT_POSITIVE = (*NOT_NUMBERS, *NOT_FINITE, 0, -1.0, -(10**400))

FILES: dict[str, Callable[[Path], object]] = {
    "load_vega": load_vega,
    "read_video": read_video,
    "read_images": lambda path: read_images([path]),
    "load_vsibench": load_vsibench,
    "read_result": read_result,
    "find_clips": lambda path: find_clips(path, None),
    "load_furniture": load_furniture,
    "read_config": read_config,
    "load_examples": lambda path: load_examples([DataSource(str(path))]),
    "scan_shard": scan_shard,
    "VegaGenerator.from_folder": VegaGenerator.from_folder,
    "describe": describe,
    "VegaConfig.from_pretrained": VegaConfig.from_pretrained,
    "VegaProcessor.from_pretrained": VegaProcessor.from_pretrained,
    "assemble": lambda path: assemble(path, path, "out"),
    "convert": lambda path: convert(path, "out"),
}
OUTPUTS: dict[str, Callable[[Path], object]] = {
    "FeatureCache": FeatureCache,
    "synthesize": lambda path: synthesize(path, DatasetSettings(split="test", size=128), 1),
    "assemble": lambda path: assemble("vlm", "generator", path),
    "convert": lambda path: convert("vlm", path),
}
NUMBERS: dict[str, tuple[Callable[[Any], object], tuple]] = {
    "read_video num_frames": (lambda value: read_video(example_clip("room"), num_frames=value), NOT_COUNTS),
    "read_video fps": (lambda value: read_video(example_clip("room"), fps=value), NOT_POSITIVE),
    "read_images num_frames": (lambda value: read_images([example_clip("room")], num_frames=value), NOT_COUNTS),
    "clip_from_frames fps": (
        lambda value: clip_from_frames(np.zeros((2, 32, 32, 3), np.uint8), fps=value),
        NOT_POSITIVE,
    ),
    "evenly views": (lambda value: evenly(2, value), NOT_COUNTS),
    "FeatureCache max_bytes": (lambda value: FeatureCache("features", value), NOT_COUNTS),
    "take_balanced limit": (lambda value: take_balanced(question_records(2), value), NOT_COUNTS),
    "evaluate batch_size": (
        lambda value: evaluate(ChanceAnswerer(0), question_records(1), None, "vsibench", batch_size=value),
        NOT_COUNTS,
    ),
    **{
        f"DatasetSettings {name}": (
            lambda value, name=name: DatasetSettings(**{"split": "test", name: value}),
            NOT_COUNTS,
        )
        for name in ("size", "num_frames", "trajectories", "questions_per_type")
    },
    **{
        f"synthesize {name}": (
            lambda value, name=name: synthesize(
                "out", DatasetSettings(split="test"), **{"num_scenes": 1, "workers": 1, name: value}
            ),
            NOT_COUNTS,
        )
        for name in ("num_scenes", "workers")
    },
    **{
        f"training {name}": (lambda value, name=name: make_config({**TRAINING, name: value}), NOT_COUNTS)
        for name in ("steps", "batch_size", "lora_rank", "logging_steps", "save_steps", "num_frames")
    },
    **{
        f"training {name}": (
            lambda value, name=name: make_config({**TRAINING, name: value}),
            tuple(value for value in NOT_POSITIVE if not isinstance(value, str)),  # YAML writes 1e-4 as text
        )
        for name in ("max_grad_norm", "residual_scale_rate", "lora_alpha")
    },
    "VegaCollator num_frames": (lambda value: VegaCollator(None, num_frames=value), NOT_COUNTS),
    "SpatialQuestion options": (lambda value: SpatialQuestion("clip", "Where?", options=value), (["a"], ["a"] * 27)),
    "SpatialQuestion question": (lambda value: SpatialQuestion("clip", value), ("", " \n", None, 1, [], b"x")),
}
TRAINING = {"model": str(FROZEN), "data": "rows.jsonl", "output": "out"}
WRONG = (*NOT_NUMBERS[:-1], *NOT_FINITE, -(10**400), 10**400, "zzz", "\ud800", None, {"a": 1})


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", [kind for kind in INPUTS if kind != "empty text"])
@pytest.mark.parametrize("loader", FILES)
def test_a_loader_refuses_what_is_no_file_of_its_kind(loader, kind, here):
    path = special_files(here)[kind]

    with pytest.raises((ValueError, OSError)) as refusal:
        FILES[loader](path)

    assert str(refusal.value)


@pytest.mark.parametrize("kind", NEW_FOLDERS)
@pytest.mark.parametrize("writer", OUTPUTS)
def test_a_writer_refuses_a_place_that_is_taken(writer, kind, here):
    path = special_files(here)[kind]
    before = sorted(here.rglob("*"))

    with pytest.raises(ValueError):
        OUTPUTS[writer](path)

    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [pytest.param(name, value, id=f"{name} {value!r:.20}") for name, (_, bad) in NUMBERS.items() for value in bad],
)
def test_a_number_that_is_none_or_out_of_range_is_refused(name, value, here):
    with pytest.raises(ValueError):
        NUMBERS[name][0](value)

    assert list(here.iterdir()) == []


def own_fields(config: type) -> list[str]:
    inherited = {field.name for field in fields(PreTrainedConfig)}
    return [field.name for field in fields(config) if field.name not in inherited]


@pytest.mark.parametrize(
    ("config", "name"),
    [(config, name) for config in (VegaConfig, VegaGeneratorConfig) for name in own_fields(config)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_field_of_a_config_keeps_its_value_or_refuses_it(config, name):
    default = getattr(config(), name)

    for value in WRONG:
        try:
            made = config(**{name: value})
        except ValueError:
            continue
        kept = getattr(made, name)
        assert kept is value or kept == value or isinstance(kept, PreTrainedConfig), (name, value)
        assert not isinstance(value, float) or math.isfinite(value), (name, value)
        kinds = (tuple, list) if isinstance(default, tuple) else type(default)
        assert value is None or isinstance(kept, kinds) or default is None, (name, value)
