"""The frames of a video that a model sees: sampled, with the boxes of a question drawn in."""

import sys
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path

import numpy as np

from vega3d.processing.video_vega3d import VideoClip, choose_frames, read_video
from vega3d.questions import Mark
from vega3d.rooms.questions.marks import draw_marks


def sampled_clip(
    visual: str | Path | VideoClip,
    num_frames: int | None,
    fps: float | None = None,
    marked_frame: int | None = None,
    marks: Sequence[Mark] = (),
) -> VideoClip:
    """Samples a video evenly, or so many frames a second.

    If boxes are marked, their frame is among those sampled, with the boxes drawn in: where sampling leaves it out, it
    takes the place of the sampled frame that is nearest in time.

    Args:
        visual: a video file, or a whole clip.
        num_frames: frames wanted; None with `fps`.
        fps: frames a second instead.
        marked_frame: number of the frame of the whole video that the boxes are on.
        marks: left, top, right, bottom [px] of boxes A, B, ...

    Raises:
        ValueError: if the video cannot be read, or lacks the frame or a marked place; if boxes have no frame.
    """
    if marks and (not isinstance(marked_frame, Integral) or marked_frame < 0):
        raise ValueError(
            f"{len(marks)} boxes are marked on frame {marked_frame!r}, but that must be a whole number from 0. Give "
            "the number of the frame of the whole video that they are on."
        )
    if not isinstance(visual, VideoClip):
        if not marks:
            return read_video(visual, num_frames, fps)
        visual = read_video(visual, sys.maxsize)
    chosen = choose_frames(visual.seconds, num_frames, fps)
    frames = visual.frames[chosen]
    if marks and marked_frame is not None:
        if marked_frame >= len(visual):
            raise ValueError(
                f"Frame {marked_frame} is marked, but {visual.source} has {len(visual)} frames. Give the video that "
                "the question was made for."
            )
        place = int(np.abs(visual.seconds[chosen] - visual.seconds[marked_frame]).argmin())
        chosen[place] = marked_frame
        frames[place] = draw_marks(visual.frames[marked_frame], marks)
    return VideoClip(frames, visual.seconds[chosen], visual.source, visual.timed)
