"""Frozen streams of a split on disk, in parts of a few hundred visuals, each whole or not there."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from vega3d.experiment.loop import Deadline, check_identity, save_tensors
from vega3d.run_files import write_json
from vega3d.synthetic.resumable import write_whole

PART = 512  # visuals in a file
AT_A_TIME = 32  # visuals computed together

Compute = Callable[[list[int]], torch.Tensor]


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
            check_identity(json.loads(described.read_text()), identity, described)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(described, identity)

    def parts(self) -> Iterator[tuple[Path, range]]:
        for start in range(0, self.count, PART):
            yield self.folder / f"{start // PART:05d}.safetensors", range(start, min(start + PART, self.count))

    @property
    def is_whole(self) -> bool:
        return all(path.is_file() for path, _ in self.parts())

    def fill(self, compute: Compute, dtype: torch.dtype, deadline: Deadline, on_visuals=None) -> None:
        """Computes the parts that are not there.

        Args:
            compute: float[n, ...] of visuals by their numbers.
            dtype: in which they are kept.
            deadline: checked before each part.
            on_visuals: called with the number newly done.
        """
        for path, numbers in self.parts():
            if not path.is_file():
                deadline.check(f"{self.folder.name}: {numbers.start} of {self.count} visuals")
                pieces = []
                for start in range(numbers.start, numbers.stop, AT_A_TIME):
                    chosen = list(range(start, min(start + AT_A_TIME, numbers.stop)))
                    pieces.append(compute(chosen).to(dtype).cpu())
                tensors = {"tokens": torch.cat(pieces).contiguous()}
                write_whole_tensors(path, tensors)
            if on_visuals is not None:
                on_visuals(len(numbers))

    def open(self) -> "KeptRows":
        """Raises ValueError if there is no visual at all."""
        if not self.count:
            raise ValueError(f"{self.folder} is to hold no visual at all. Make more rooms.")
        return KeptRows([load_file(path)["tokens"] for path, _ in self.parts()])


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


def write_whole_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    write_whole(path, partial(save_tensors, tensors=tensors))
