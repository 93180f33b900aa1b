"""No entry is used for a generator that would give other features, whatever its config says of its files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from vega3d import VegaForSpatialReasoning
from vega3d.features.cache import FeatureCache
from vega3d.features.identity import feature_identity

CLIP = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def change_weights(folder: Path, part: str) -> None:
    """Other values of the same shapes, where `config.json` does not see them."""
    [file] = (folder / "generator" / part).glob("*.safetensors")
    tensors = {name: tensor * 1.5 + 0.1 for name, tensor in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})


def change_prompt(folder: Path) -> None:
    """The prompt's embedding lies with the model's own weights."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    [name] = [name for name in tensors if name.endswith("prompt_embeds")]
    tensors[name] = tensors[name] * 3 + 1
    save_file(tensors, file, {"format": "pt"})


def change_config(folder: Path, change: Callable[[dict], object]) -> None:
    values = json.loads((folder / "config.json").read_text())
    change(values["generator_config"])
    (folder / "config.json").write_text(json.dumps(values))


def change_part(folder: Path, part: str, **changed) -> None:
    """Other options of a part that its weights fit too, in both places that name them."""
    file = folder / "generator" / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    change_config(folder, lambda values: values[part].update(changed))


CHANGES: dict[str, Callable[[Path], object]] = {
    "transformer": lambda folder: change_weights(folder, "transformer"),
    "vae": lambda folder: change_weights(folder, "vae"),
    "prompt": change_prompt,
    "heads": lambda folder: change_part(folder, "transformer", num_attention_heads=4, attention_head_dim=6),
    "latents": lambda folder: change_part(folder, "vae", latents_mean=[0.5, 0.5, 0.5, 0.5]),
}


def generator_of(folder: Path, **options):
    return VegaForSpatialReasoning.from_pretrained(folder, **options).model.generator


def assert_own_features(cache: FeatureCache, generator) -> None:
    [expected] = generator.encode([CLIP])
    [found] = cache.features(generator, [CLIP])
    assert torch.equal(found, expected.bfloat16())


@pytest.fixture
def filled(checkpoint, tmp_path) -> FeatureCache:
    """A cache with the features of the unchanged checkpoint."""
    cache = FeatureCache(tmp_path / "cache")
    cache.features(generator_of(checkpoint), [CLIP])
    return cache


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("stated", ["as before", "nothing"])
def test_a_copy_with_other_files_gets_its_own_features(filled, checkpoint, tmp_path, change, stated):
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    CHANGES[change](copy)
    if stated == "nothing":
        change_config(copy, lambda values: values.update(files_hash=None))

    assert_own_features(filled, generator_of(copy))


def test_a_copy_finds_what_the_original_left(filled, checkpoint, tmp_path):
    generator_of(checkpoint)
    VegaForSpatialReasoning.from_pretrained(checkpoint).save_pretrained(tmp_path / "copy")
    copy = generator_of(tmp_path / "copy")

    assert filled.get(CLIP, feature_identity(copy)) is not None


def in_place(generator) -> None:
    with torch.no_grad():
        generator.tower.transformer.blocks[0].ffn.net[2].weight.add_(0.5)


def through_data(generator) -> None:
    next(generator.tower.encoder.parameters()).data.mul_(2)


def another_parameter(generator) -> None:
    linear = generator.tower.transformer.condition_embedder.time_proj  # what is derived from it is kept between clips
    linear.bias = torch.nn.Parameter(linear.bias + 1, requires_grad=False)


def another_prompt(generator) -> None:
    generator.prompt_embeds.add_(2)


def a_state_dict(generator) -> None:
    state = {name: tensor + 0.25 for name, tensor in generator.tower.transformer.state_dict().items()}
    generator.tower.transformer.load_state_dict(state)


@pytest.mark.parametrize("change", [in_place, through_data, another_parameter, another_prompt, a_state_dict])
@pytest.mark.parametrize("order", ["seen before", "not seen before"])
def test_weights_changed_in_memory_give_their_own_features(filled, checkpoint, change, order):
    generator = generator_of(checkpoint)
    [before] = generator.encode([CLIP])
    if order == "seen before":
        filled.features(generator, [CLIP])

    change(generator)
    [found] = filled.features(generator, [CLIP])

    assert not torch.equal(found, before.bfloat16())
    assert_own_features(filled, generator)


def test_seed_of_the_noise_is_the_one_in_use(checkpoint):
    generator = generator_of(checkpoint)
    identity = feature_identity(generator)

    generator.config.noise_seed = 7  # the noise has been set up with another one

    assert feature_identity(generator) == identity


def test_another_release_of_the_blocks_has_other_keys(checkpoint, monkeypatch):
    generator = generator_of(checkpoint)
    identity = feature_identity(generator)

    monkeypatch.setattr(diffusers, "__version__", "0.0.1")

    assert feature_identity(generator) != identity


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_type_gets_its_own_features(filled, checkpoint, dtype):
    assert_own_features(filled, generator_of(checkpoint, dtype=dtype))


def test_a_depth_that_is_not_needed_is_no_part_of_the_key(checkpoint):
    generator = generator_of(checkpoint)

    deep, shallow = (generator.variant(block=block) for block in (2, 1))

    assert feature_identity(deep, [0]) == feature_identity(shallow, [0])
    assert feature_identity(deep, [1]) != feature_identity(shallow, [0])


def test_weights_that_cannot_be_hashed_are_refused(checkpoint):
    generator = generator_of(checkpoint)
    block = generator.tower.transformer.blocks[0]

    class Packed(torch.nn.Parameter):
        """Its bytes are not all of its value, as with packed 4-bit weights."""

    block.ffn.net[2].weight = Packed(block.ffn.net[2].weight.data, requires_grad=False)

    with pytest.raises(ValueError, match=r"blocks\.0\.ffn\.net\.2\.weight is a Packed .* not cached"):
        feature_identity(generator)


@pytest.mark.parametrize(
    ("blocks", "timesteps", "message"),
    [
        ([99], [300], "block=99 is out of range"),
        ([2], [300], "block=2 is out of range"),
        ([0], [1000], "timestep=1000"),
    ],
)
def test_places_that_are_not_there_are_refused_with_a_full_cache_too(checkpoint, tmp_path, blocks, timesteps, message):
    cache, generator = FeatureCache(tmp_path), generator_of(checkpoint)
    list(cache.read(generator, CLIP, [0, 1], [300]))

    with pytest.raises(ValueError, match=message):
        list(cache.read(generator, CLIP, blocks, timesteps))


def test_what_is_named_twice_is_computed_once(checkpoint, tmp_path):
    cache, generator = FeatureCache(tmp_path), generator_of(checkpoint)
    expected = [
        (k, {b: h.bfloat16() for b, h in hidden.items()}) for k, hidden in generator.read(CLIP, [1], [300, 300])
    ]

    for _ in range(2):
        found = list(cache.read(generator, CLIP, [1, 1], [300, 300]))

        assert [k for k, _ in found] == [300, 300] == [k for k, _ in expected]
        assert all(torch.equal(ours[1], theirs[1]) for (_, ours), (_, theirs) in zip(found, expected, strict=True))
    assert cache.stats()["entries"] == 1
