"""Frozen streams of a split on disk, in parts of a few hundred visuals, each whole or not there."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from research.tiny.study.ahead import Ahead
from research.tiny.study.loop import Deadline, check_identity, save_tensors
from vega3d.files import read_json, write_json, write_whole

PART = 512  # visuals in a file
AT_A_TIME = 32  # visuals computed together

Prepare = Callable[[list[int]], Any]
Compute = Callable[[Any], torch.Tensor]


class KeptTensors:
    """
    Args:
        folder: of one stream of one split.
        count: visuals of the split.
        identity: all that the tensors depend on, as plain values.

    Raises:
        ValueError: if the folder holds tensors of another identity.
    """

    def __init__(self, folder: Path, count: int, identity: dict):
        self.folder, self.count = folder, count
        described = folder / "identity.json"
        identity = {**identity, "count": count}
        if described.is_file():
            check_identity(read_json(described), identity, described)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(described, identity)

    def parts(self) -> Iterator[tuple[Path, range]]:
        for start in range(0, self.count, PART):
            yield self.folder / f"{start // PART:05d}.safetensors", range(start, min(start + PART, self.count))

    @property
    def is_whole(self) -> bool:
        return all(is_whole_part(path) for path, _ in self.parts())

    def fill(self, prepare: Prepare, compute: Compute, dtype: torch.dtype, deadline: Deadline) -> None:
        """Computes the parts that are not there.

        Args:
            prepare: what `compute` needs of visuals, by their numbers; called by threads while others are computed.
            compute: float[n, ...] of what was prepared.
            dtype: in which they are kept.
            deadline: checked before each part.
        """
        missing = [(path, numbers) for path, numbers in self.parts() if not is_whole_part(path)]
        pieces = [
            list(range(start, min(start + AT_A_TIME, numbers.stop)))
            for _, numbers in missing
            for start in range(numbers.start, numbers.stop, AT_A_TIME)
        ]
        done = 0
        with Ahead(lambda piece: prepare(pieces[piece]), len(pieces)) as prepared:
            for path, numbers in missing:
                deadline.check(f"{self.folder.name}: {numbers.start} of {self.count} visuals")
                following = done + -(-len(numbers) // AT_A_TIME)
                rows = [compute(prepared[piece]).to(dtype).cpu() for piece in range(done, following)]
                write_whole(path, partial(save_tensors, tensors={"tokens": torch.cat(rows)}))
                done = following

    def open(self) -> "KeptRows":
        """Raises ValueError if there is no visual at all."""
        if not self.count:
            raise ValueError(f"{self.folder} is to hold no visual at all. Make more rooms.")
        return KeptRows([load_file(path)["tokens"] for path, _ in self.parts()])


def is_whole_part(path: Path) -> bool:
    """Whether a file is there, and as long as its head says."""
    try:
        with safe_open(path, "pt") as file:
            return "tokens" in file.keys()  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError):
        return False


class KeptRows:
    """Tensors of visuals, read from the files when they are asked for; processes share the system's copy in memory.

    Args:
        parts: float[PART, ...], mapped from their files.
    """

    def __init__(self, parts: list[torch.Tensor]):
        self.parts = parts

    def __getitem__(self, visuals: Sequence[int]) -> torch.Tensor:
        """float[V, ...], on the CPU; ready to be sent to a GPU, if there is one."""
        rows = [self.parts[visual // PART][visual % PART] for visual in visuals]
        stacked = torch.stack(rows)
        return stacked.pin_memory() if torch.cuda.is_available() else stacked
