"""`FeatureCache`: the generator's hidden states on disk, one entry for each clip, block and noise level.

An entry holds bf16[t, h, w, C] on the generator's own grid, before the learned projector. Its name is a hash of the
pixels, of the generator's weights in memory and of all options that change its features. An entry never goes stale:
after a change the features have another name.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from huggingface_hub import constants

from vega3d.features.entries import (
    evict,
    list_entries,
    read_entry,
    regular_status,
    remove_stale,
    write_bytes,
    write_entry,
)
from vega3d.features.identity import FORMAT, clip_hash, entry_key, feature_identity, setting_identities
from vega3d.files import read_json, write_json
from vega3d.modeling.generator_vega3d import VegaGenerator
from vega3d.modeling.inputs_vega3d import unpacked_clips
from vega3d.modeling.modeling_vega3d import VegaTaskModel

MARKER = "vega3d_features.json"
READ_FORMATS = (1, FORMAT)  # formats of folders; no key leads to an entry of an earlier format
LARGEST = 2**63  # bytes that a limit may have
logger = logging.getLogger(__name__)


def default_folder() -> Path:
    """The usual folder of a feature cache, beside the Hub's own cache."""
    return Path(constants.HF_HOME) / "vega3d" / "features"


class FeatureCache:
    """Hidden states of clips on disk; many processes may read and write at once.

    An entry that is truncated, changed or of something else is never used: it is computed again. Whatever comes from
    the cache is rounded to bf16, also when it was computed just now, so that a hit and a miss give the same.

    Args:
        folder: is made if it is not there.
        max_bytes: the most that all entries together may take; those used longest ago are removed first. None sets no
            limit.

    Raises:
        ValueError: if the folder is of another version, holds other files, or cannot be made.
    """

    def __init__(self, folder: str | Path, max_bytes: int | None = None):
        self.folder, self.max_bytes = Path(folder), max_bytes
        if max_bytes is not None and not (type(max_bytes) is int and 1 <= max_bytes <= LARGEST):
            raise ValueError(
                f"max_bytes is {max_bytes}, but must be a whole number from 1 to {LARGEST}. Leave it out for no limit."
            )
        self._claim_folder()
        self._total: int | None = None  # of all entries [bytes], as far as this process knows

    def get(self, clip: torch.Tensor, identity: str) -> torch.Tensor | None:
        """The stored hidden states bf16[t, h, w, C] of a clip, on the CPU, or None if there is no good entry.

        Args:
            clip: uint8 or float[T, 3, H, W], as the generator gets it.
            identity: `feature_identity` of the generator.
        """
        return self._get(clip_hash(clip), identity)

    def put(self, clip: torch.Tensor, identity: str, hidden: torch.Tensor) -> None:
        """Stores float[t, h, w, C], rounded to bf16.

        Raises:
            ValueError: if it holds NaN or infinity or is larger than `max_bytes`, or the folder is full or cannot be
                written.
        """
        self._put(clip_hash(clip), identity, as_stored(hidden))

    def features(
        self,
        generator: VegaGenerator,
        clips: Sequence[torch.Tensor],
        on_progress: Callable[[int], None] | None = None,
    ) -> list[torch.Tensor]:
        """The hidden states of `VegaGenerator.encode`; those that are missing are computed and stored.

        `on_progress` is called with the number of frames newly done.

        Returns:
            bf16[t, h, w, C] for each clip, on the CPU if it was found, else on the generator's device.
        """
        identity = feature_identity(generator)
        found: list[torch.Tensor] = []
        for clip in clips:
            content = clip_hash(clip)
            hidden = self._get(content, identity)
            if hidden is None:
                hidden = generator.encode([clip], on_progress=on_progress)[0].bfloat16()
                self._put(content, identity, as_stored(hidden))
            elif on_progress is not None:
                on_progress(len(clip))
            found.append(hidden)
        return found

    def read(
        self, generator: VegaGenerator, clip: torch.Tensor, blocks: Sequence[int], timesteps: Sequence[int]
    ) -> Iterator[tuple[int, dict[int, torch.Tensor]]]:
        """The hidden states of `VegaGenerator.read`, several blocks and noise levels of one clip.

        Those that are missing are computed in one pass over the clip, and stored.

        Yields:
            The timestep, and bf16[t, h, w, C] on the CPU for each block.
        """
        content = clip_hash(clip)
        keys = setting_identities(generator, ((k, block) for k in timesteps for block in blocks))
        found = {setting: self._get(content, identity) for setting, identity in keys.items()}
        missing = [k for k in dict.fromkeys(timesteps) if any(found[k, block] is None for block in blocks)]
        computed = generator.read(clip, blocks, missing)
        waiting = set(missing)
        for number, timestep in enumerate(timesteps, start=1):
            if timestep in waiting:
                waiting.remove(timestep)
                for block, hidden in next(computed)[1].items():
                    stored = as_stored(hidden)
                    if found[timestep, block] is None:
                        self._put(content, keys[timestep, block], stored)
                    found[timestep, block] = stored
            yield timestep, {block: found[timestep, block] for block in blocks}  # type: ignore[misc]
            if timestep not in timesteps[number:]:
                for block in set(blocks):
                    del found[timestep, block]

    def attach(self, inputs: Mapping, identity: str, patch_size: int) -> dict:
        """The inputs with cached hidden states in place of the generator's pixels, if all of them are there.

        It needs no generator, so the workers of a data loader can use it.

        Args:
            inputs: as the processor returns them.
            identity: `feature_identity` of the generator.
            patch_size: side of a patch [px], the processor's `generator_patch_size`.

        Returns:
            The inputs with `generator_hidden_states`, images first, without generator pixels; if a clip is missing,
            the inputs as they are.
        """
        found = [self.get(clip, identity) for clip in unpacked_clips(inputs, patch_size)]
        if not found or any(hidden is None for hidden in found):
            return dict(inputs)
        return without_pixels(inputs, found)

    def fill(self, model: VegaTaskModel, inputs: Mapping, on_progress: Callable[[int], None] | None = None) -> dict:
        """The inputs as `attach` makes them, after computing and storing the hidden states that are missing.

        Inputs without generator pixels stay as they are. `on_progress` is called with the number of frames newly done.
        """
        clips = unpacked_clips(inputs, model.config.generator_config.patch_size)
        if not clips:
            return dict(inputs)
        return without_pixels(inputs, self.features(model.generator_module, clips, on_progress))

    def stats(self) -> dict:
        """Number and size [bytes] of the entries, and the limit."""
        entries = list_entries(self.folder)
        size = sum(entry.size for entry in entries)
        return {"folder": str(self.folder), "entries": len(entries), "bytes": size, "max_bytes": self.max_bytes}

    def verify(self, on_progress: Callable[[int], None] | None = None) -> dict:
        """Reads all entries and removes the bad ones; returns how many were good and bad.

        `on_progress` is called with 1 after each entry.
        """
        counts = {"good": 0, "bad": 0, "left_by_killed_writers": remove_stale(self.folder)}
        for entry in list_entries(self.folder):
            if read_entry(entry.path, entry.path.stem) is not None:
                counts["good"] += 1
            elif regular_status(entry.path) is not None:  # else another process has just removed it
                counts["bad"] += 1
                entry.path.unlink(missing_ok=True)
            if on_progress is not None:
                on_progress(1)
        return counts

    def merge(self, folder: str | Path, on_progress: Callable[[int], None] | None = None) -> dict:
        """Takes over the entries of another cache, byte for byte, that are not here; returns how many.

        Bad entries are left out and counted. `on_progress` is called with 1 after each entry. Raises ValueError if the
        folder is no feature cache, or this one takes no more entries.
        """
        counts = {"merged": 0, "there_already": 0, "bad": 0}
        other = FeatureCache.existing(folder)
        for entry in list_entries(other.folder):
            target = self.folder / entry.path.parent.name / entry.path.name
            if read_entry(target, target.stem) is not None:
                counts["there_already"] += 1
            elif read_entry(entry.path, entry.path.stem) is None:
                counts["bad"] += 1
            else:
                self._make_room_for(entry.size)
                write_bytes(target, entry.path.read_bytes())
                counts["merged"] += 1
            if on_progress is not None:
                on_progress(1)
        return counts

    @classmethod
    def existing(cls, folder: str | Path) -> "FeatureCache":
        """A cache that is there; raises ValueError if the folder holds none."""
        if not (Path(folder) / MARKER).is_file():
            raise ValueError(
                f"{folder} holds no feature cache. Give the folder that `vega3d cache --cache` has filled."
            )
        return cls(folder)

    def clear(self) -> int:
        """Removes all entries; returns how many. Entries that other processes are just writing stay."""
        entries = list_entries(self.folder)
        for entry in entries:
            entry.path.unlink(missing_ok=True)
        remove_stale(self.folder)
        self._total = None
        return len(entries)

    def _get(self, content: str, identity: str) -> torch.Tensor | None:
        path = self._path(content, identity)
        hidden = read_entry(path, path.stem)
        if hidden is None and path.exists():
            logger.warning("The cached features %s are damaged; they are computed again.", path)
        return hidden

    def _put(self, content: str, identity: str, hidden: torch.Tensor) -> None:
        path = self._path(content, identity)
        self._make_room_for(hidden.numel() * hidden.element_size() + 4096)  # the header is smaller than a page
        written = write_entry(path, hidden, {"key": path.stem, "clip": content, "identity": identity})
        if self._total is not None:
            self._total += written

    def _make_room_for(self, size: int) -> None:
        if self.max_bytes is None:
            return
        if size > self.max_bytes:
            raise ValueError(
                f"One clip's features take {size} bytes, more than max_bytes={self.max_bytes} allows. Raise it."
            )
        if self._total is None or self._total + size > self.max_bytes:
            self._total = evict(self.folder, self.max_bytes - size)

    def _path(self, content: str, identity: str) -> Path:
        key = entry_key(content, identity)
        return self.folder / key[:2] / f"{key}.safetensors"

    def _claim_folder(self) -> None:
        marker = self.folder / MARKER
        try:
            if marker.exists():
                self._check_format(marker)
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            others = any(not path.name.startswith(".") for path in self.folder.iterdir())
            if others and not marker.is_file():  # another process may have just made the cache
                raise ValueError(
                    f"{self.folder} holds other files and no feature cache. Choose an empty or new folder for it."
                )
            write_json(marker, {"format": FORMAT})
        except OSError as error:
            raise ValueError(
                f"The feature cache {self.folder} cannot be made: {error}. Choose a folder that can be written."
            ) from error

    def _check_format(self, marker: Path) -> None:
        found = read_json(marker, "Choose another folder, or delete this one.").get("format")
        if type(found) is not int or found not in READ_FORMATS:
            raise ValueError(
                f"The feature cache {self.folder} has format {found!r:.80}, but this version of vega3d reads and "
                f"writes format {FORMAT}. Choose another folder, or delete this one."
            )
        if found != FORMAT and os.access(marker, os.W_OK) and os.access(self.folder, os.W_OK):
            write_json(marker, {"format": FORMAT})  # an earlier version would take new entries for damaged ones


def as_stored(hidden: torch.Tensor) -> torch.Tensor:
    return hidden.detach().to("cpu", torch.bfloat16).contiguous()


def without_pixels(inputs: Mapping, hidden: Sequence[torch.Tensor | None]) -> dict:
    pixels = ("generator_pixel_values", "generator_pixel_values_videos")
    others = {name: value for name, value in inputs.items() if name not in pixels}
    return {**others, "generator_hidden_states": list(hidden)}
