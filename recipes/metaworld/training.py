"""What the trainings of a study begin with: an untrained model for each arm and seed, and cached features."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig

from recipes.metaworld.small_model import make_small_model
from recipes.metaworld.study import FEATURES, MODELS, Study, run_name, training_file
from vega3d import VegaForSpatialReasoning, VegaGeneratorConfig
from vega3d.features.cache import FeatureCache
from vega3d.features.identity import feature_identity
from vega3d.files import write_json
from vega3d.hub.load import load_task, load_vega
from vega3d.modeling.configuration_vega3d import FRAME_SETTINGS
from vega3d.modeling.generator_vega3d import VegaGenerator
from vega3d.modeling.inputs_vega3d import unpacked_clips
from vega3d.training.actions import ActionCollator, PolicyData, policy_of

OF_FILES = {"transformer", "vae", "prompt_tokens", "files_hash", "source"}  # fields that come with a generator's files
ROWS = 16  # whose features are computed at once


def make_models(study: Study) -> Iterator[Path]:
    """Writes the models from which trainings begin, and the configs of these; a model that is there stays.

    Models of a seed have the same VLM, bit for bit, and those with a generator the same projector, in so far as the
    shapes of its features are the same.
    """
    (study.output / MODELS).mkdir(parents=True, exist_ok=True)
    for arm, seed in study.runs():
        folder = study.output / MODELS / run_name(arm, seed)
        if not folder.exists():
            options = study.recipe.arm_options(arm)
            if study.recipe.is_fused(arm):
                options = {**generator_options(study.recipe.generator), **options}
            make_small_model(folder, seed, size=study.recipe.demonstrations.size, **options)
        file = training_file(study, (arm, seed))
        file.parent.mkdir(exist_ok=True)
        write_json(file, study.recipe.training_config(study, arm, seed))
        yield folder


@lru_cache(maxsize=1)
def generator_options(model: str) -> dict[str, Any]:
    """Arguments of `make_small_model` by which it has the generator of a fused model, with its settings and prompt."""
    fused, processor = load_vega(model, device="cpu")
    generator = fused.generator_module
    inherited = {field.name for field in fields(PreTrainedConfig)}
    names = {field.name for field in fields(VegaGeneratorConfig)} - inherited - OF_FILES
    options = {name: value for name, value in vars(generator.config).items() if name in names}
    frames = {name: vars(processor.frame_settings)[name] for name in FRAME_SETTINGS}
    prompt = generator.prompt_embeds.float()
    return {"generator": generator.files, "prompt_embeds": prompt, **options, **frames}


def fill_features(study: Study, arm: str, on_progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Computes and stores the features of all rows of an arm's trainings, which no seed changes.

    `on_progress` is called with the rows newly done and those of the data set. Returns the cache's `stats`.
    """
    configs = [config for (name, _), config in study.configs().items() if name == arm]
    config = next((one for one in configs if Path(one.model).is_dir()), None)
    if config is None:
        raise ValueError(f"There is no model {configs[0].model}. Make it with the command `models`.")
    assert config.actions is not None  # `read_study` sees to it
    device = None if config.device == "auto" else config.device
    model, processor = load_task(VegaForSpatialReasoning, config.model, device=device, dtype=config.dtype)
    rows = PolicyData(config.data[0], config.actions, config.actions.skip_episodes)
    policy = policy_of(model, processor.tokenizer, rows, config.actions, config.seed)
    cache = FeatureCache(study.output / FEATURES)
    collate = partial(clips_of, ActionCollator(processor, config=policy.config))
    for clips in DataLoader(rows, ROWS, collate_fn=collate, num_workers=config.workers):
        store_features(cache, policy.generator_module, clips)
        on_progress(min(ROWS, len(rows)), len(rows))
    return cache.stats()


def clips_of(collator: ActionCollator, rows: list[dict[str, Any]]) -> list[torch.Tensor]:
    """The generator's clips of some rows."""
    return unpacked_clips(collator(rows), collator.processor.generator_patch_size)


def store_features(cache: FeatureCache, generator: VegaGenerator, clips: list[torch.Tensor]) -> None:
    identity = feature_identity(generator)
    missing = [clip for clip in clips if cache.get(clip, identity) is None]
    if missing:
        for clip, hidden in zip(missing, generator.encode(missing), strict=True):
            cache.put(clip, identity, hidden)
