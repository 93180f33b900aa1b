"""Frames that the model sees: of files and of memory, sampled, and with the marks of a question."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vega3d.inference.encoding import content_hash, read_frames, video_file
from vega3d.processing.video_vega3d import VideoClip, read_images, read_video
from vega3d.questions import SpatialQuestion
from vega3d.rooms.questions.marks import COLORS, draw_marks
from vega3d.shipped import example_clip

MARKS = ((10, 12, 50, 40), (60, 20, 90, 45))


def question(frame: int | None = None, marks=(), visual="room", **options) -> SpatialQuestion:
    return SpatialQuestion(visual, "Which box?", ("a", "b"), frame=frame, marks=marks, **options)


@pytest.fixture(scope="module")
def whole():
    return read_video(example_clip("room"), num_frames=10_000)


@pytest.mark.parametrize("frame", [0, 1, 5, 9])
def test_the_marked_frame_takes_the_place_of_the_nearest(whole, frame):
    plain, marked = read_frames(question(), 4, None), read_frames(question(frame, MARKS), 4, None)
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
            file = read_frames(question(frame, marks), *sampling)
            memory = read_frames(question(frame, marks, visual=whole), *sampling)
            assert (file.frames == memory.frames).all() and (file.seconds == memory.seconds).all()
    assert (whole.frames == before).all()


def test_shipped_clips_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert video_file(question(visual="room")) == example_clip("room")
    with pytest.raises(ValueError, match="no example clip 'attic'"):
        video_file(question(visual="attic"))
    (tmp_path / "room").mkdir()  # what the user has goes first
    assert video_file(question(visual="room")) is None


@pytest.mark.parametrize("marks", [(), MARKS], ids=["plain", "marked"])
def test_folders_arrays_and_lists_are_read_as_clips(whole, tmp_path, marks):
    for number, frame in enumerate(whole.frames[:6]):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    folder = read_images(tmp_path)
    frame = 3 if marks else None
    expected = read_frames(question(frame, marks, visual=folder), 4, None)
    for visual in (tmp_path, str(tmp_path), folder.frames, list(folder.frames)):
        clip = read_frames(question(frame, marks, visual=visual), 4, None)
        assert (clip.frames == expected.frames).all() and (clip.seconds == expected.seconds).all()


def test_an_image_is_one_frame(whole):
    clip = read_frames(question(visual=Image.fromarray(whole.frames[2]), is_image=True), 4, None)
    assert (clip.frames == whole.frames[2:3]).all()


def test_two_videos_are_refused(whole):
    with pytest.raises(ValueError, match="about one video, but 2 were given"):
        read_frames(question(visual=[whole, whole]), 4, None)


def test_only_equal_content_has_an_equal_hash(whole, tmp_path):
    copy = Path(shutil.copy(example_clip("room"), tmp_path / "copy.mp4"))
    assert content_hash(copy) == content_hash(example_clip("room")) != content_hash(example_clip("study"))
    again, later = VideoClip(whole.frames.copy(), whole.seconds), VideoClip(whole.frames, whole.seconds + 1)
    other = whole.frames.copy()
    other[0, 0, 0, 0] ^= 1
    assert content_hash(again) == content_hash(whole)
    assert len({content_hash(clip) for clip in (whole, later, VideoClip(other, whole.seconds))}) == 3


def test_a_frame_that_is_not_there_is_refused(whole):
    with pytest.raises(ValueError, match=rf"Frame 999 is marked, but .*room\.mp4 has {len(whole)} frames"):
        read_frames(question(999, MARKS), 4, None)
    with pytest.raises(ValueError, match="not inside the frame"):
        read_frames(question(1, ((0, 0, 9999, 5),)), 4, None)


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
