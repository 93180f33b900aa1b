"""`ActionWindows`, the rows that a policy learns from: what the robot sees at a step, and its next actions."""

from collections.abc import Collection
from typing import Any

import numpy as np

from vega3d.robotics.demonstrations import Demonstrations, check_demonstrations


class ActionWindows:
    """A row for each step of each episode that has a new frame: images, state, task, and the next K actions.

    A row has `id`, `images` (uint8[n, H, W, 3] of each camera, its last n frames; at the beginning of an episode the
    first is repeated), `task`, `state` float32[P], `actions` float32[K, A] and `action_is_pad` bool[K]. Behind the end
    of an episode the last action is repeated, and is padding.

    Args:
        data: demonstrations; all of them are looked at before the first row.
        chunk: K, how many actions a row has.
        frames: n, how many of the last frames of each camera.
        cameras: names in the order wanted, by default all of the data set.
        skip: numbers of episodes that are left out.
        in_memory: decode all images now, each once, and keep them: 3 H W bytes each. The rows are the same.

    Raises:
        ValueError: for a camera that is not there, for several frames where they are repeated, and as
            `check_demonstrations`.
    """

    def __init__(
        self,
        data: Demonstrations,
        chunk: int,
        frames: int = 1,
        cameras: Collection[str] | None = None,
        skip: Collection[int] = (),
        in_memory: bool = False,
    ):
        self.data, self.chunk, self.num_frames = data, chunk, frames
        self.cameras = data.cameras if cameras is None else tuple(cameras)
        missing = [name for name in self.cameras if name not in data.cameras]
        if missing or not self.cameras:
            raise ValueError(f"{data.folder} has no camera {missing}; it has {list(data.cameras)}. Name one of these.")
        if frames > 1 and data.seen_every > 1:
            raise ValueError(
                f"frames is {frames}, but {data.folder} has a new frame every {data.seen_every} steps. Take one "
                "frame, or record an image at each step."
            )
        self.episodes = check_demonstrations(data, skip)
        self._ends = np.cumsum([-(-data.lengths[episode] // data.seen_every) for episode in self.episodes])
        self._kept: dict[tuple[int, str], np.ndarray] = {}
        if in_memory:
            self._kept = {(one, name): self._decoded(one, name) for one in self.episodes for name in self.cameras}

    def _decoded(self, episode: int, camera: str) -> np.ndarray:
        """uint8[n, H, W, 3]: all images of an episode that are new."""
        return self.data.frames(episode, camera, range(0, self.data.lengths[episode], self.data.seen_every))

    def _frames(self, episode: int, camera: str, steps: list[int]) -> np.ndarray:
        if (episode, camera) not in self._kept:
            return self.data.frames(episode, camera, steps)
        return self._kept[episode, camera][[step // self.data.seen_every for step in steps]]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> dict[str, Any]:
        place = int(np.searchsorted(self._ends, number, side="right"))
        episode = self.episodes[place]
        length = self.data.lengths[episode]
        begin = int(self._ends[place - 1]) if place else 0
        step = (number - begin) * self.data.seen_every
        states, actions = self.data.numbers(episode)
        ahead = np.arange(step, step + self.chunk)
        seen = np.arange(step - self.num_frames + 1, step + 1).clip(0).tolist()
        return {
            "id": f"{self.data.folder.name}/{episode}/{step}",
            "images": {name: self._frames(episode, name, seen) for name in self.cameras},
            "task": self.data.task(episode, step),
            "state": states[step],
            "actions": actions[ahead.clip(max=length - 1)],
            "action_is_pad": ahead >= length,
        }
