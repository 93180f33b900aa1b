"""What other processes do to a cache in `test_cache.py` and `test_cache_guards.py`."""

import multiprocessing
import random
from multiprocessing.context import ForkServerContext
from multiprocessing.synchronize import Event

import torch

from vega3d.features.cache import FeatureCache


def forkserver() -> ForkServerContext:
    """Starts processes that need not import everything anew."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vega3d.features.cache"])
    return context


def clip(number: int) -> torch.Tensor:
    return torch.full((1, 3, 16, 16), number % 250, dtype=torch.uint8)


def hidden(number: int) -> torch.Tensor:
    return torch.full((8, 64, 64, 32), float(number % 100), dtype=torch.bfloat16)


def fill(folder: str, numbers) -> None:
    cache = FeatureCache(folder)
    for number in numbers:
        cache.put(clip(number), "identity", hidden(number))


def put_and_clear(folder: str, seed: int) -> None:
    cache, chance = FeatureCache(folder), random.Random(seed)
    for _ in range(25):
        number = chance.randrange(6)
        cache.put(clip(number), "identity", hidden(number))
        found = cache.get(clip(number), "identity")
        assert found is None or torch.equal(found, hidden(number))
        if chance.random() < 0.3:
            cache.clear()


def fill_for_ever(folder: str, began: Event) -> None:
    """Until it is killed."""
    cache = FeatureCache(folder)
    began.set()
    while True:
        for number in range(40):
            cache.put(clip(number), "identity", hidden(number))
