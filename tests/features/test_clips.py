"""The frames of a video that a model sees, with the boxes of a question."""

import numpy as np
import pytest

from vega3d.features.clips import sampled_clip
from vega3d.processing.video_vega3d import clip_from_frames


@pytest.mark.parametrize("frame", [None, -1, 2.0, "2"])
def test_boxes_without_a_frame_to_draw_them_on_are_refused(frame):
    clip = clip_from_frames(np.zeros((5, 48, 64, 3), np.uint8), fps=1)

    with pytest.raises(ValueError, match=r"1 boxes are marked on frame .*must be a whole number from 0"):
        sampled_clip(clip, 3, marked_frame=frame, marks=[(4, 4, 20, 20)])


def test_boxes_are_drawn_on_their_frame():
    clip = clip_from_frames(np.zeros((5, 48, 64, 3), np.uint8), fps=1)

    sampled = sampled_clip(clip, 2, marked_frame=3, marks=[(4, 4, 20, 20)])

    assert sampled.seconds.tolist() == [0, 3]
    assert [bool(frame.any()) for frame in sampled.frames] == [False, True]
