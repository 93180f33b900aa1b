"""Frames that the model sees: sampled, and with the marks of a question."""

import numpy as np
import pytest

from vega3d.evaluation.visuals import question_clip, visual_key
from vega3d.evaluation.vsibench import QuestionRecord
from vega3d.hub.load import example_clip
from vega3d.processing.video_vega3d import read_video
from vega3d.rooms.questions.marks import COLORS, draw_marks

MARKS = ((10, 12, 50, 40), (60, 20, 90, 45))


def question(frame: int | None = None, marks=(), visual=None) -> QuestionRecord:
    room = example_clip("room") if visual is None else visual
    return QuestionRecord(
        "7", "clips", "room", "localisation_by_choice", "?", "A", ("A. a", "B. b"), room, frame, marks
    )


@pytest.fixture(scope="module")
def whole():
    return read_video(example_clip("room"), num_frames=10_000)


@pytest.mark.parametrize("frame", [0, 1, 5, 9])
def test_the_marked_frame_takes_the_place_of_the_nearest(whole, frame):
    plain, marked = question_clip(question(), 4, None), question_clip(question(frame, MARKS), 4, None)
    place = int(np.flatnonzero(marked.seconds == whole.seconds[frame])[0])
    assert place == int(np.abs(plain.seconds - whole.seconds[frame]).argmin())
    others = [index for index in range(4) if index != place]
    assert (marked.frames[others] == plain.frames[others]).all()
    assert (marked.frames[place] == draw_marks(whole.frames[frame], MARKS)).all()
    assert (marked.frames[place] != whole.frames[frame]).any()


def test_files_and_clips_in_memory_are_sampled_alike(whole):
    before = whole.frames.copy()
    for frame, marks in ((None, ()), (3, MARKS)):
        for sampling in ((5, None), (None, 2.0)):
            file = question_clip(question(frame, marks), *sampling)
            memory = question_clip(question(frame, marks, visual=whole), *sampling)
            assert (file.frames == memory.frames).all() and (file.seconds == memory.seconds).all()
    assert (whole.frames == before).all()


def test_only_equal_frames_are_shared():
    keys = {
        visual_key(question()),
        visual_key(question(3, MARKS)),
        visual_key(question(4, MARKS)),
        visual_key(question(3, MARKS[:1])),
        visual_key(question(visual=example_clip("study"))),
    }
    assert len(keys) == 5 and visual_key(question(3, MARKS)) == visual_key(question(3, MARKS))


def test_a_frame_that_is_not_there_is_refused(whole):
    with pytest.raises(ValueError, match=rf"Question 7: Frame 999 is marked, but .*room\.mp4 has {len(whole)} frames"):
        question_clip(question(999, MARKS), 4, None)
    with pytest.raises(ValueError, match="not inside the frame"):
        question_clip(question(1, ((0, 0, 9999, 5),)), 4, None)


def mostly(frame: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(frame.astype(int) - color) <= 2).all(-1)


@pytest.mark.parametrize("size", [(128, 128), (192, 192), (480, 640)])
@pytest.mark.parametrize("shade", [0, 255])
def test_boxes_and_letters_are_seen(size, shade):
    """Each box has its own colour on its edge and nowhere inside, and a tag of at least 12 px that touches it."""
    height, width = size
    frame = np.full((height, width, 3), shade, np.uint8)
    marks = [
        (0, 0, width // 4, height // 4),
        (width // 2, height // 2, width, height),
        (width // 8, height // 2, width // 4, height - 4),
        (width - 40, 0, width, 30),
    ]
    drawn = draw_marks(frame, marks)
    assert drawn.shape == frame.shape and (frame == shade).all()
    for (left, top, right, bottom), color in zip(marks, COLORS, strict=False):
        found = mostly(drawn, color)
        assert found[top, (left + right) // 2] and found[bottom - 1, (left + right) // 2]
        assert found[(top + bottom) // 2, left] and found[(top + bottom) // 2, right - 1]
        assert not found[(top + bottom) // 2, (left + right) // 2]
        rows = found.sum(1)
        assert (rows >= 5).sum() > 12  # the rows of the tag, beside those of the edge


def test_tags_do_not_cover_each_other():
    """Four boxes at one place: the whole of each tag is seen."""
    drawn = draw_marks(np.full((128, 128, 3), 120, np.uint8), [(40, 40, 90, 90)] * 4)
    areas = [mostly(drawn, color).sum() for color in COLORS[:4]]
    assert min(areas[:3]) > 60


def test_the_rest_of_the_frame_is_left_alone(whole):
    frame = whole.frames[0]
    changed = (draw_marks(frame, MARKS) != frame).any(-1)
    assert changed.any() and not changed[:, 100:].any() and not changed[70:].any()
    for left, top, right, bottom in MARKS:
        assert not changed[top + 14 : bottom - 2, left + 16 : right - 2].any()


def test_letters_differ():
    first, second = (draw_marks(np.zeros((128, 128, 3), np.uint8), [(9, 40, 20, 60)] * count) for count in (1, 2))
    assert (first != second).any()


@pytest.mark.parametrize("mark", [(5, 5, 5, 9), (-1, 0, 4, 4), (0, 0, 65, 9), (9, 0, 4, 9)])
def test_bad_boxes_are_refused(mark):
    with pytest.raises(ValueError, match=r"The mark .* is empty or not inside the frame of 64x64 px"):
        draw_marks(np.zeros((64, 64, 3), np.uint8), [mark])
    with pytest.raises(ValueError, match="Got 27 marks, but there are 26 letters"):
        draw_marks(np.zeros((64, 64, 3), np.uint8), [(0, 0, 9, 9)] * 27)
