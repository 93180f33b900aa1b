"""Fills a cache for ever, to be killed; its argument is the folder. Started by `test_cache.py`."""

import random
import sys

import torch

from vega3d.features.cache import FeatureCache


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


if __name__ == "__main__":
    cache = FeatureCache(sys.argv[1])
    print("ready", flush=True)
    while True:
        for number in range(40):
            cache.put(clip(number), "identity", hidden(number))
