"""Folders of images, and what `vega3d ask` is given: every file is read or named."""

import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from processing.builders import build_processor
from processing.video_files import write_video
from vega3d.processing.media_vega3d import flatten_videos, load_clips
from vega3d.processing.media_vega3d import read_visual as read_paths
from vega3d.processing.video_vega3d import read_images
from vega3d_cli.ask import media_paths

VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


def read_visual(media, num_frames, fps, usual):
    """As `vega3d ask` reads what it is given."""
    return read_paths(media_paths(media), num_frames, fps, usual)


def picture(path, value: int = 200, size=(64, 48), **options):
    Image.new("RGB", size, (value,) * 3).save(path, **options)
    return path


def animation(path):
    first, *others = [Image.new("RGB", (64, 48), (50 * number,) * 3) for number in range(5)]
    first.save(path, save_all=True, append_images=others, duration=200)
    return path


def values(clip) -> list[int]:
    return clip.frames[:, 0, 0, 0].tolist()


# A folder


def test_pictures_of_every_format_are_read_in_natural_order(tmp_path):
    for number, name in enumerate(("1.jpg", "2.tif", "3.JPEG", "9.gif", "10.bmp", "11.TIFF", "12.png", "13.jp2")):
        picture(tmp_path / name, 8 * number)

    assert np.abs(np.array(values(read_images(tmp_path))) - 8 * np.arange(8)).max() <= 1


def test_the_content_tells_what_is_a_picture(tmp_path):
    picture(tmp_path / "right.png", 7).rename(tmp_path / "1.jpg")
    picture(tmp_path / "other.png", 9).rename(tmp_path / "2")

    assert values(read_images(tmp_path)) == [7, 9]


def test_what_is_no_medium_is_passed_over(tmp_path):
    picture(tmp_path / "1.png", 7)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._1.png", "poses.json", "notes.txt", "empty", "BMW.txt"):
        (tmp_path / name).write_bytes(b"" if name == "empty" else b"BM no picture")
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7\n")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "poses.txt").write_text("1 2 3")

    assert values(read_images(tmp_path)) == [7]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("2.jpg", b""),
        ("2.png", b"no picture"),
        ("2.mp4", b"no film"),
        ("2.heic", b"no picture"),
        ("2.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("2", b"\x89PNG\r\n\x1a\n cut"),
    ],
)
def test_a_medium_that_cannot_be_read_is_named(tmp_path, name, content):
    picture(tmp_path / "1.png")
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ValueError, match=name):
        read_images(tmp_path)


def test_a_broken_link_is_named_and_a_link_is_read(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "1.png").symlink_to(picture(tmp_path / "elsewhere.png", 7))
    assert values(read_images(folder)) == [7]
    (folder / "2.png").symlink_to(tmp_path / "nowhere.png")

    with pytest.raises(ValueError, match=r"holds 2\.png.*broken link"):
        read_images(folder)


@pytest.mark.parametrize("other", ["film.mp4", "film_without_suffix", "depth"])
def test_films_and_folders_beside_pictures_are_named_in_a_note(tmp_path, caplog, other):
    picture(tmp_path / "1.png", 7)
    if other == "depth":
        (tmp_path / other).mkdir()
        picture(tmp_path / other / "1.png")
    else:
        write_video(tmp_path / "film.mp4", 3).rename(tmp_path / other)

    with caplog.at_level(logging.WARNING):
        clip = read_images(tmp_path)

    assert values(clip) == [7]
    assert f"without {other}" in caplog.text


def test_a_folder_of_a_film_alone_says_so(tmp_path):
    write_video(tmp_path / "film.mp4", 3)

    with pytest.raises(ValueError, match=r"holds no images, but film\.mp4: give that itself"):
        read_images(tmp_path)


def test_an_animation_in_a_folder_is_named(tmp_path):
    animation(tmp_path / "a.gif")

    with pytest.raises(ValueError, match=r"a\.gif is an animation of 5 frames"):
        read_images(tmp_path)


def test_pictures_of_different_sizes_are_named(tmp_path):
    picture(tmp_path / "1.png")
    picture(tmp_path / "2.png", size=(48, 64))

    with pytest.raises(ValueError, match=r"1\.png is .*2\.png is"):
        read_images(tmp_path)


# Lists of paths


@pytest.mark.parametrize("names", [("1.jpg", "2.tif"), ("1", "2"), ("1.PNG", "2.gif")])
def test_a_list_of_pictures_is_one_video(tmp_path, names):
    paths = [str(picture(tmp_path / name, 10 * place, format="PNG")) for place, name in enumerate(names)]

    [video] = flatten_videos(paths)

    assert values(load_clips([video], None, None, 4, None, True)[0]) == [0, 10]


def test_a_list_of_films_and_animations_is_several_videos(tmp_path):
    paths = [animation(tmp_path / "a.gif"), animation(tmp_path / "b.png"), write_video(tmp_path / "c.png.mp4", 3)]

    assert [len(clip) for clip in load_clips(flatten_videos(paths), None, None, 9, None, True)] == [5, 5, 3]


# What `vega3d ask` is given


@pytest.mark.parametrize(
    ("name", "content", "frames", "is_image"),
    [
        ("a.png", "picture", 1, True),
        ("A.PNG", "picture", 1, True),
        ("a.tif", "picture", 1, True),
        ("a.mp4", "picture", 1, True),
        ("a", "picture", 1, True),
        ("a.png", "animation", 4, False),
        ("a.webp", "animation", 4, False),
        ("a.png", "film", 4, False),
        ("a", "film", 4, False),
        ("a b é.mp4", "film", 4, False),
    ],
)
def test_ask_reads_a_file_by_its_content(tmp_path, name, content, frames, is_image):
    made = {
        "picture": lambda: picture(tmp_path / "made.tiff"),
        "animation": lambda: animation(tmp_path / "made.gif"),
        "film": lambda: write_video(tmp_path / "made.mp4", 10),
    }[content]()
    path = shutil.move(made, tmp_path / name)

    clip, image = read_visual([str(path)], None, None, usual=4)

    assert (len(clip), image) == (frames, is_image)


def test_ask_takes_a_file_address(tmp_path):
    path = picture(tmp_path / "a b.png", 7)

    clip, is_image = read_visual([path.as_uri()], None, None, 4)

    assert values(clip) == [7] and is_image


def test_ask_reads_several_pictures(tmp_path):
    paths = [str(picture(tmp_path / name, value)) for name, value in (("b.tif", 5), ("a.gif", 9))]

    assert values(read_visual(paths, None, None, 4)[0]) == [5, 9]


@pytest.mark.parametrize(
    ("media", "message"),
    [
        ([""], "1 is empty text"),
        (["a.png", " "], "2 is empty text"),
        (["https://example.com/v.mp4"], r"https://example\.com/v\.mp4 is an address.*Download it first"),
        (["a.png", "http://example.com/b.png"], "http://example.com/b.png is an address"),
        (["data:video/mp4;base64,AAAA"], "holds data, not a path"),
        (["A" * 5000], "cannot be a path"),
        (["no/such.mp4"], "no/such.mp4: there is no such video"),
        (["a.png", "film.mp4"], r"film\.mp4 is a film, not an image"),
        (["a.png", "folder"], "folder is a folder, not an image file"),
        (["pipe.mp4"], r"pipe\.mp4 is no regular file"),
    ],
)
def test_ask_names_what_it_cannot_read(tmp_path, monkeypatch, media, message):
    import os

    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png")
    write_video(tmp_path / "film.mp4", 3)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")

    with pytest.raises(ValueError, match=message):
        read_visual(media, None, None, 4)


@pytest.mark.parametrize("sampling", [{"num_frames": 0}, {"fps": 0.0}, {"num_frames": 2, "fps": 1.0}])
def test_ask_checks_the_sampling_of_images_too(tmp_path, sampling):
    path = str(picture(tmp_path / "a.png"))

    for media in ([path], [path, path], [str(tmp_path)]):
        with pytest.raises(ValueError, match=r"must be|exclude each other"):
            read_visual(media, sampling.get("num_frames"), sampling.get("fps"), 4)
    with pytest.raises(ValueError, match="single image, which has no frames a second"):
        read_visual([path], None, 1.0, 4)


@pytest.mark.parametrize("videos", ["", [""], "data:video/mp4;base64,AAAA", "A" * 5000, "https://example.com/v.mp4"])
def test_the_processor_names_what_is_no_video(videos):
    with pytest.raises(ValueError, match=r"empty text|holds data|cannot be a path|Download it"):
        build_processor()(text=VIDEO, videos=videos)
