"""Weights of a checkpoint beside those of the model that its config describes, and beside the pretrained ones."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from vega3d.hub.tensor_files import StoredTensor

OWN_CONFIG = "Give the checkpoint with its own config.json."
WHOLE_AGAIN = "Copy or download it again, whole."
NEW_SPREAD = 0.02  # standard deviation of weights that transformers begins anew


def check_weights(
    found: Mapping[str, StoredTensor],
    expected: Mapping[str, torch.Tensor],
    place: str,
    config: str = "its config",
    again: str = WHOLE_AGAIN,
) -> None:
    """Raises ValueError unless names and shapes are those of a model that a config describes.

    `again` is the remedy for missing weights, `config` says in the message whose config it is.
    """
    counts = depths(found)
    for part, count in depths(expected).items():
        if counts.get(part, 0) != count:
            raise ValueError(f"{place} has {counts.get(part, 0)} {part}, but {config} says {count}. {again}")
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing:
        raise ValueError(f"{place} lacks {len(missing)} weights, the first is {missing[0]}. {again}")
    if unknown:
        raise ValueError(
            f"{place} has {len(unknown)} weights that {config} does not tell of, the first is {unknown[0]}: they "
            f"would be lost. {OWN_CONFIG}"
        )
    for name, tensor in found.items():
        wanted = tuple(expected[name].shape)
        if tensor.shape != wanted:
            raise ValueError(f"{place}: {name} is {tensor.shape}, but {config} says {wanted}. {OWN_CONFIG}")


def depths(names: Mapping[str, Any]) -> dict[str, int]:
    """Number of blocks of each list of them, by the path of the list."""
    counts: dict[str, int] = {}
    for name in names:
        match = re.match(r"(.*?\b(?:blocks|layers|block))\.(\d+)\.", name)
        if match:
            counts[match[1]] = max(counts.get(match[1], 0), int(match[2]) + 1)
    return counts


class Comparison(NamedTuple):
    """The transformer of a checkpoint beside Wan's own."""

    total: int  # weights
    different: list[str]  # those that differ, in the type of fewer digits of the two
    dtypes: tuple[str, str]  # of the checkpoint, and of Wan
    is_new: bool  # those that differ are as transformers begins weights anew

    def words(self, wan: str, restored: bool) -> str:
        if not self.different:
            ours, theirs = self.dtypes
            types = "" if ours == theirs else f" (in {ours}; there in {theirs})"
            return (
                f"The {self.total} weights of the transformer are those of {wan}{types}: they are the pretrained ones."
            )
        said = (
            f"{len(self.different)} of the {self.total} weights of the transformer differ from those of {wan}, the "
            f"first is {self.different[0]}: they are not the pretrained ones"
        )
        if self.is_new:
            said += f", but random, normal with a standard deviation of {NEW_SPREAD} and with biases of zero"
        if restored:
            return f"{said}. Those of {wan} are taken (--restore)."
        return f"{said}. They are kept, as the checkpoint was trained with them; --restore takes those of {wan}."


def compare(tower: Mapping[str, StoredTensor], own: Mapping[str, StoredTensor]) -> Comparison:
    """Compares all weights of a transformer, one by one, with those of the same names."""
    different, is_new = [], True
    for name, stored in tower.items():
        ours, theirs = stored.read(), own[name].read()
        narrow = min(ours.dtype, theirs.dtype, key=lambda dtype: dtype.itemsize)
        if not torch.equal(ours.to(narrow), theirs.to(narrow)):
            different.append(name)
            is_new = is_new and looks_new(name, ours)
    first, second = (str(next(iter(part.values())).dtype).removeprefix("torch.") for part in (tower, own))
    return Comparison(len(tower), different, (first, second), bool(different) and is_new)


def looks_new(name: str, weight: torch.Tensor) -> bool:
    """Whether a weight is as transformers begins it: zero for a bias, or spread as usual for a matrix."""
    if name.endswith("bias"):
        return not weight.any()
    return weight.ndim > 1 and abs(weight.float().std().item() / NEW_SPREAD - 1) < 0.1
