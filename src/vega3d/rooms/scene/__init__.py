"""A furnished room from a seed: shell, furniture, materials, and a camera trajectory through it.

Here: the splits of rooms and the seeds of each.
"""

from typing import Literal, get_args

Split = Literal["train", "validation", "test", "test_unseen"]
SPLITS: tuple[Split, ...] = get_args(Split)  # in the order of their seeds
UNSEEN_SPLIT = SPLITS[-1]  # the split whose furniture and style no other split has
SEEDS_PER_SPLIT = 1 << 30


def scene_seed(split: str, number: int) -> int:
    """The seed of a scene; splits share none.

    Args:
        split: one of `SPLITS`.
        number: which scene of its split, from 0.

    Raises:
        ValueError: if the split is unknown or the number is not in [0, 2^30).
    """
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}. Choose one of {list(SPLITS)}.")
    if not 0 <= number < SEEDS_PER_SPLIT:
        raise ValueError(f"A split has scenes 0 to {SEEDS_PER_SPLIT - 1}, but got {number}.")
    return SPLITS.index(split) * SEEDS_PER_SPLIT + number


def split_of_seed(seed: int) -> str:
    """The split that a scene's seed belongs to; the inverse of `scene_seed`.

    Raises:
        ValueError: if no split has the seed.
    """
    if not 0 <= seed < len(SPLITS) * SEEDS_PER_SPLIT:
        raise ValueError(f"Seeds lie in 0 to {len(SPLITS) * SEEDS_PER_SPLIT - 1}, but got {seed}.")
    return SPLITS[seed // SEEDS_PER_SPLIT]
