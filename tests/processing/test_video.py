"""Reading videos, images and frames in memory: which frames, at which times, upright, and clear errors."""

import av
import numpy as np
import pytest
import torch
from PIL import Image

from processing.video_files import (
    frame_number,
    numbered_frame,
    write_audio,
    write_two_sizes,
    write_video,
    write_without_frames,
)
from vega3d.processing.video_decoding_vega3d import _converted, decode_frames, is_newer, read_timeline
from vega3d.processing.video_vega3d import (
    VideoClip,
    choose_frames,
    clip_from_frames,
    read_images,
    read_video,
    sample_clip,
)


def numbers(clip: VideoClip) -> list[int]:
    return [frame_number(frame) for frame in clip.frames]


def write_image(path, size=(8, 6), colour=(200, 0, 0), **options):
    Image.new("RGB", size, colour).save(path, **options)
    return path


# Choosing frames


@pytest.mark.parametrize(
    ("seconds", "sampling", "rows"),
    [
        (np.arange(10) / 10, {"num_frames": 1}, [0]),
        (np.arange(10) / 10, {"num_frames": 2}, [0, 9]),
        (np.arange(10) / 10, {"num_frames": 4}, [0, 3, 6, 9]),
        (np.arange(5) / 30, {"num_frames": 4}, [0, 1, 3, 4]),
        (np.arange(3), {"num_frames": 16}, [0, 1, 2]),
        (np.arange(2), {"num_frames": 2}, [0, 1]),
        (np.arange(6) * 1.0, {"num_frames": 3}, [0, 2, 5]),  # 2.5 s is as near to 2 s as to 3 s: the earlier frame
        (np.array([0, 1, 2, 3, 100]), {"num_frames": 4}, [0, 2, 3, 4]),  # no frame twice over a pause
        (np.array([0, 97, 98, 99, 100]), {"num_frames": 4}, [0, 1, 2, 4]),
        (np.array([0, 0.1, 0.2, 5, 5.1, 10]), {"num_frames": 3}, [0, 3, 5]),
        (np.array([2.0]), {"num_frames": 8}, [0]),
        (np.array([2.0]), {"fps": 8}, [0]),
        (np.arange(31) / 30, {"fps": 3}, [0, 10, 20, 30]),
        (np.arange(30) / 30, {"fps": 3}, [0, 10, 20]),
        (np.arange(4) / 4, {"fps": 100}, [0, 1, 2, 3]),
        (np.arange(30) / 100, {"fps": 100}, list(range(30))),  # 0.29 * 100 is below 29 in floating point
        (np.array([0, 0.1, 0.2, 5, 5.1, 10]), {"fps": 1}, [0, 2, 3, 4, 5]),
    ],
)
def test_chosen_rows(seconds, sampling, rows):
    assert choose_frames(seconds, **sampling).tolist() == rows


def test_chosen_rows_are_distinct_and_as_many_as_asked():
    generator = np.random.default_rng(0)
    for _ in range(200):
        seconds = np.cumsum(generator.exponential(size=generator.integers(1, 40)) ** 4 + 1e-6)
        wanted = int(generator.integers(1, 45))
        rows = choose_frames(seconds, num_frames=wanted)
        assert len(rows) == min(wanted, len(seconds))
        assert rows[0] == 0 and rows[-1] < len(seconds) and (np.diff(rows) > 0).all()


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({}, "got neither"),
        ({"num_frames": 4, "fps": 2.0}, r"`num_frames` \(4\) and `fps` \(2.0\) exclude each other"),
        ({"num_frames": 0}, "at least 1, but got 0"),
        ({"num_frames": 2.5}, "whole number of at least 1, but got 2.5"),
        ({"fps": 0}, "above 0 frames a second, but got 0"),
        ({"fps": -3.0}, "but got -3.0"),
        ({"fps": float("nan")}, "but got nan"),
    ],
)
def test_sampling_out_of_range(sampling, message):
    with pytest.raises(ValueError, match=message):
        choose_frames(np.arange(4), **sampling)


# Video files


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("long_group.mp4", {}),
        ("short_groups.mp4", {"options": {"g": "4"}}),
        ("all_keyframes.mp4", {"options": {"g": "1"}}),
        ("open_groups.mp4", {"options": {"x264-params": "open-gop=1:keyint=8"}}),
        ("fragmented.mp4", {"options": {"g": "8"}, "container_options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("short_groups.mkv", {"options": {"g": "4"}}),
        ("short_groups.ts", {"options": {"g": "4"}}),
        ("motion_jpeg.avi", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
        ("vp9.webm", {"codec": "libvpx-vp9", "options": {"g": "10", "cpu-used": "8"}}),
    ],
)
def test_evenly_spaced_frames_with_their_times(tmp_path, name, options):
    clip = read_video(write_video(tmp_path / name, 40, **options), num_frames=5)

    assert numbers(clip) == [0, 10, 19, 29, 39]
    assert clip.seconds.tolist() == pytest.approx([0, 1.0, 1.9, 2.9, 3.9])
    assert clip.timed and clip.source.endswith(name)


def test_packets_that_never_become_a_frame_are_not_counted(tmp_path):
    path = write_video(
        tmp_path / "vp8.webm", 40, codec="libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16", "g": "20"}
    )

    assert numbers(read_video(path, num_frames=40)) == list(range(40))


def test_variable_frame_rate_keeps_the_stored_times(tmp_path):
    milliseconds = [0, 40, 100, 130, 1000, 1100, 5000, 5033, 6000, 6001]
    path = write_video(tmp_path / "variable.mp4", 10, milliseconds)

    assert numbers(read_video(path, num_frames=4)) == [0, 5, 6, 9]
    assert read_video(path).seconds.tolist() == pytest.approx([value / 1000 for value in milliseconds], abs=1e-4)
    assert numbers(read_video(path, fps=0.5)) == [0, 5, 6, 8]


def test_times_count_from_the_first_frame(tmp_path):
    clip = read_video(write_video(tmp_path / "late.mkv", 3, [5000, 5100, 5200]))

    assert clip.seconds.tolist() == pytest.approx([0, 0.1, 0.2])


def test_default_is_sixteen_frames_and_fps_replaces_it(tmp_path):
    path = write_video(tmp_path / "video.mp4", 40)

    assert len(read_video(path)) == 16
    assert numbers(read_video(path, fps=1.0)) == [0, 10, 20, 30]


def test_a_stream_recorded_from_the_middle_starts_at_its_first_keyframe(tmp_path):
    whole = write_video(tmp_path / "whole.ts", 40, options={"g": "10", "bf": "0"}).read_bytes()
    (tmp_path / "cut.ts").write_bytes(whole[188 * 12 :])

    clip = read_video(tmp_path / "cut.ts", num_frames=40)

    assert numbers(clip) == list(range(10, 40))
    assert clip.seconds[0] == 0


@pytest.mark.parametrize(
    ("rotation", "mirrored"),
    [(None, False), *((rotation, mirrored) for rotation in (0, 90, -90, 180, 270) for mirrored in (False, True))],
)
def test_stored_rotation_is_applied(tmp_path, rotation, mirrored):
    path = write_video(tmp_path / "turned.mp4", 3, rotation=rotation, mirrored=mirrored)

    clip = read_video(path)

    # FFmpeg turns counterclockwise, then mirrors.
    turned = np.rot90(numbered_frame(1), (rotation or 0) // 90)
    expected = turned[:, ::-1] if mirrored else turned
    assert clip.frames[1].shape == expected.shape
    assert np.abs(clip.frames[1].astype(int) - expected.astype(int)).mean() < 4


def test_rotation_by_other_angles_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"rotated by 3[01] degrees; only multiples of 90"):
        read_video(write_video(tmp_path / "oblique.mp4", 2, rotation=31))


@pytest.mark.parametrize(("height", "width"), [(47, 65), (65, 47), (31, 200), (16, 16)])
def test_odd_and_portrait_sizes(tmp_path, height, width):
    frames = [numbered_frame(number, height, width) for number in range(3)]

    clip = read_video(write_video(tmp_path / "odd.mkv", frames, pixel_format="yuv444p"))

    assert clip.frames.shape == (3, height, width, 3)
    assert numbers(clip) == [0, 1, 2]


def test_one_frame(tmp_path):
    clip = read_video(write_video(tmp_path / "one.mp4", 1), num_frames=8)

    assert clip.frames.shape == (1, 48, 64, 3)
    assert clip.seconds.tolist() == [0.0]


def test_only_chosen_frames_are_decoded_from_their_keyframes(tmp_path):
    """Damage between the chosen groups of pictures is never looked at."""
    path = write_video(tmp_path / "video.mp4", 40, options={"g": "10"})
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + 4 + (data.index(b"moov") - data.index(b"mdat")) // 2
    data[middle : middle + 60] = bytes(60)
    path.write_bytes(data)

    assert numbers(read_video(path, num_frames=2)) == [0, 39]
    with pytest.raises(ValueError, match=r"decoding failed after \d+ frames"):
        read_video(path, num_frames=40)


@pytest.mark.parametrize("group", [1, 2, 3, 5])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_seeking_lands_on_the_right_keyframe(tmp_path, suffix, group):
    """Decoding times run ahead of presentation times where frames are reordered."""
    path = write_video(tmp_path / f"video.{suffix}", 40, options={"g": str(group), "bf": "1"})
    timeline = read_timeline(path)

    frames = decode_frames(path, timeline, np.arange(1, 40, 7))

    assert len(timeline.keyframes) >= 40 // group
    assert [frame_number(frame) for frame in frames] == list(range(1, 40, 7))


# Files that are no video


def test_missing_file_folder_address_and_empty_file(tmp_path):
    (tmp_path / "empty.mp4").touch()
    for path, message in [
        (tmp_path / "missing.mp4", "missing.mp4: there is no such video file"),
        (tmp_path, "is a folder, not a video file. For a folder of images use `read_images`"),
        (tmp_path / "empty.mp4", r"is an empty file \(0 bytes\)"),
        ("https://example.com/video.mp4", "read from local files only. Download it"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_video(path)


@pytest.mark.parametrize("name", ["text.mp4", "text.txt"])
def test_text_is_no_video(tmp_path, name):
    (tmp_path / name).write_text("This is no video.\n" * 100)
    with pytest.raises(ValueError, match=r"is not a video that FFmpeg can open|is text"):
        read_video(tmp_path / name)


def test_audio_only(tmp_path):
    with pytest.raises(ValueError, match=r"holds no video stream \(its streams: audio\)"):
        read_video(write_audio(tmp_path / "sound.m4a"))
    with pytest.raises(ValueError, match=r"holds no video stream \(its streams: audio, video\)"):
        read_video(write_audio(tmp_path / "album.m4a", cover=True))


@pytest.mark.parametrize("name", ["none.mp4", "none.avi"])
def test_no_frames(tmp_path, name):
    with pytest.raises(ValueError, match=r"holds no frames|holds no video stream"):
        read_video(write_without_frames(tmp_path / name))


def test_file_cut_before_its_index(tmp_path):
    data = write_video(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="it was cut off while being written"):
        read_video(tmp_path / "cut.mp4")


def test_file_cut_in_the_middle_says_how_many_frames_are_left(tmp_path):
    path = write_video(tmp_path / "whole.mp4", 40, container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 8 // 10])
    with pytest.raises(ValueError, match=r"announces 40 frames, but only \d+ can be read: the file is cut off"):
        read_video(path, num_frames=2)


def test_stream_without_times(tmp_path):
    with pytest.raises(ValueError, match="its 10 frames do not carry increasing presentation times"):
        read_video(write_video(tmp_path / "raw.h264", 10))


def test_frame_size_that_changes(tmp_path):
    with pytest.raises(ValueError, match=r"the frame size changes from 64x48 to 96x48 \(width x height\) at 1\.0"):
        read_video(write_two_sizes(tmp_path / "two.ts"), num_frames=40)


def test_sampling_is_checked_before_the_file(tmp_path):
    with pytest.raises(ValueError, match="exclude each other"):
        read_video(tmp_path / "missing.mp4", num_frames=4, fps=1.0)


# Images


def test_folder_of_images_in_natural_order(tmp_path):
    for number in (10, 9, 1, 100):
        write_image(tmp_path / f"view_{number}.png", colour=(number, 0, 0))
    (tmp_path / "notes.txt").write_text("not an image")

    clip = read_images(tmp_path)

    assert clip.frames[:, 0, 0, 0].tolist() == [1, 9, 10, 100]
    assert clip.seconds.tolist() == [0, 1, 2, 3]
    assert clip.frames.shape == (4, 6, 8, 3)
    assert not clip.timed


def test_some_of_the_images(tmp_path):
    for number in range(10):
        write_image(tmp_path / f"{number}.jpg", colour=(20 * number,) * 3, quality=95)

    clip = read_images(tmp_path, num_frames=4)

    assert clip.seconds.tolist() == [0, 3, 6, 9]
    assert (clip.frames[:, 0, 0, 0] / 20).round().tolist() == [0, 3, 6, 9]


def test_list_of_files_keeps_its_order(tmp_path):
    paths = [write_image(tmp_path / "b.webp", colour=(9, 9, 9), lossless=True), write_image(tmp_path / "a.bmp")]

    assert read_images(paths).frames[:, 0, 0, 0].tolist() == [9, 200]


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 6))
    image.paste((255, 255, 255), (0, 0, 4, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a turn by 90 degrees clockwise
    image.save(tmp_path / "phone.png", exif=exif)

    frame = read_images([tmp_path / "phone.png"]).frames[0]

    assert np.array_equal(frame, np.rot90(np.array(image), -1))


def test_images_that_cannot_be_read(tmp_path):
    small, large = write_image(tmp_path / "small.png"), write_image(tmp_path / "large.png", size=(9, 6))
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "folder").mkdir()
    for paths, message in [
        ([small, large], r"small.png is \[6, 8, 3\] and .*large.png is \[6, 9, 3\]"),
        ([tmp_path / "broken.png"], "broken.png cannot be read as an image"),
        ([tmp_path / "missing.png"], "missing.png: there is no such image file"),
        ([], "Got 0 image files. Give at least one"),
        (tmp_path / "folder", "holds no images. Supported suffixes: .png, .jpg, .jpeg, .webp, .bmp"),
        (tmp_path / "nowhere", "there is no such folder"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_images(paths)


# Frames in memory


def every_form(array: np.ndarray) -> dict:
    tensor = torch.from_numpy(array)
    return {
        "numpy": array,
        "torch channels last": tensor,
        "torch channels first": tensor.permute(0, 3, 1, 2),
        "PIL": [Image.fromarray(frame) for frame in array],
        "list of numpy": list(array),
        "list of torch": list(tensor.permute(0, 3, 1, 2)),
    }


def test_every_form_gives_the_same_clip():
    array = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)
    for form, frames in every_form(array).items():
        clip = clip_from_frames(frames, fps=2)
        assert np.array_equal(clip.frames, array), form
        assert clip.seconds.tolist() == [0, 0.5, 1, 1.5, 2], form


def test_reversed_and_read_only_arrays_are_taken():
    array = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)
    array.flags.writeable = False
    for frames in (array, array[::-1], array[:, :, ::-1]):
        clip = clip_from_frames(frames)
        assert np.array_equal(clip.frames, frames)
        assert torch.equal(torch.from_numpy(clip.frames), torch.tensor(frames.copy()))


def test_times_of_frames_in_memory():
    frames = np.zeros((3, 4, 4, 3), np.uint8)

    assert clip_from_frames(frames, seconds=[0.5, 1, 7]).seconds.tolist() == [0.5, 1, 7]
    assert clip_from_frames(frames, seconds=[0.5, 1, 7]).timed
    assert clip_from_frames(frames).seconds.tolist() == [0, 1, 2]
    assert not clip_from_frames(frames).timed
    for seconds, message in [
        ([0, 1], r"got 3 frames and times \(2,\)"),
        ([0, 2, 1], r"must increase, but got \[0.0, 2.0, 1.0\] s"),
        ([0, 0, 1], "must increase"),
        ([0, 1, float("nan")], "one finite time in seconds for each frame"),
    ]:
        with pytest.raises(ValueError, match=message):
            clip_from_frames(frames, seconds=seconds)
    with pytest.raises(ValueError, match="`seconds` and `fps` exclude each other"):
        clip_from_frames(frames, seconds=[0, 1, 2], fps=1)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), r"got ndarray float32\[2, 4, 4, 3\]"),
        (np.zeros((2, 3, 4, 4), np.uint8), r"got ndarray uint8\[2, 3, 4, 4\]"),
        (np.zeros((4, 4, 3), np.uint8), r"got ndarray uint8\[4, 4, 3\]"),
        (np.zeros((0, 4, 4, 3), np.uint8), "at least one frame"),
        (np.zeros((2, 4, 4, 4), np.uint8), r"got ndarray uint8\[2, 4, 4, 4\]"),
        (torch.zeros(2, 3, 4, 4), r"got Tensor float32\[2, 4, 4, 3\]|got Tensor float32\[2, 3, 4, 4\]"),
        (torch.zeros(2, 3, 4, 3, dtype=torch.uint8), r"can be \[T, 3, H, W\] or \[T, H, W, 3\]"),
        ([], "empty list of frames"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)], r"frame 0 is .* frame 1 is \[4, 5, 3\]"),
        ([Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8)], "of one kind, got"),
        (["a.png", "b.png"], r"of one kind, got \['str'\]"),
        ("video.mp4", "but got str"),
    ],
)
def test_frames_of_another_form_are_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        clip_from_frames(frames)


def test_sampling_a_clip_keeps_frames_and_times_together():
    frames = np.stack([numbered_frame(number) for number in range(10)])
    clip = clip_from_frames(frames, seconds=[0, 1, 2, 3, 4, 5, 6, 7, 8, 20])

    sampled = sample_clip(clip, num_frames=3)

    assert numbers(sampled) == [0, 8, 9]
    assert sampled.seconds.tolist() == [0, 8, 20]
    assert numbers(sample_clip(clip, fps=0.25)) == [0, 4, 8, 9]


def test_sampling_by_rate_needs_times():
    clip = clip_from_frames(np.zeros((3, 4, 4, 3), np.uint8))

    assert len(sample_clip(clip, num_frames=2)) == 2
    with pytest.raises(ValueError, match=r"sampling at `fps` \(2\) needs the time of each frame"):
        sample_clip(clip, fps=2)


@pytest.mark.skipif(not is_newer(), reason="an older PyAV converts in one thread")
@pytest.mark.parametrize(("size", "threads"), [((64, 96), {"threads": 1}), ((720, 1280), {})])
def test_small_frames_are_converted_in_one_thread_to_the_same_pixels(size, threads):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
    asked = []

    class Spy:
        height, width = size

        def to_ndarray(self, **options):
            asked.append(options)
            return frame.to_ndarray(**options)

    found = _converted(Spy(), "rgb24", size[1])
    assert asked == [{"format": "rgb24", **threads}]
    np.testing.assert_array_equal(found, frame.to_ndarray(format="rgb24"))
