"""Data sets of rooms: made by several processes, read, stored, and streamed.

Here: what a data set is made with. Light to import: a wrong value is found before anything heavy is loaded.
"""

from dataclasses import asdict, dataclass
from typing import Any

from vega3d.configs import check_count
from vega3d.rooms.scene import Split, scene_seed

ON_DISK = {"trajectories": "walks"}  # settings that have another name in the files of data sets


@dataclass(frozen=True)
class DatasetSettings:
    """What the walkthroughs of a data set show, and what is written of them; `vega3d synthesize` has these options.

    Attributes:
        split: its rooms are in no other split.
        size: edge of the square frames [px], an even number from 128 to 640.
        num_frames: frames of each walkthrough, 2 to 512.
        trajectories: walkthroughs of a room, which share its light, 1 to 64.
        questions_per_type: most questions of one type about a walkthrough, 1 to 100.
        videos: whether videos and arrays are written; without, only tables, in a tenth of the time.

    Raises:
        ValueError: for a value out of range.
    """

    split: Split = "train"
    size: int = 192
    num_frames: int = 17
    trajectories: int = 1
    questions_per_type: int = 2
    videos: bool = True

    def __post_init__(self):
        scene_seed(self.split, 0)
        limits = {"size": (128, 640), "num_frames": (2, 512), "trajectories": (1, 64), "questions_per_type": (1, 100)}
        for name, (low, high) in limits.items():
            check_count(name, asdict(self)[name], low, high)
        if self.size % 2:
            raise ValueError(
                f"size is {self.size}, but video frames have an even number of pixels. Use {self.size + 1}."
            )

    def as_json(self) -> dict[str, Any]:
        """The names and values on disk, in the folder's `settings.json` and its name in a cache."""
        return {ON_DISK.get(name, name): value for name, value in asdict(self).items()}

    def walkthrough_names(self, room: int) -> list[str]:
        """File names of a room's walkthroughs, without their endings."""
        return [f"{self.split}_{room:06d}_{trajectory:02d}" for trajectory in range(self.trajectories)]
