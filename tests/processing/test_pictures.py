"""Pictures: what their pixels mean, animations, damaged and foreign files, and the ways to name a picture."""

import base64
import shutil
import sys
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from processing.builders import build_processor
from processing.video_files import write_video
from vega3d.processing.media_vega3d import load_image_array
from vega3d.processing.video_vega3d import read_images, read_video

RAMP = np.tile(np.arange(256, dtype=np.uint16) * 257, (4, 1))
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def save(path, image: Image.Image, **options):
    image.save(path, **options)
    return path


def logo(mode: str = "RGBA") -> Image.Image:
    """A black square, whole in its alpha alone: what is transparent is black beneath."""
    pixels = np.zeros((24, 32, 4), np.uint8)
    pixels[8:16, 8:24, 3] = 255
    image = Image.fromarray(pixels)
    if mode == "PA":
        return image.convert("P").convert("PA")
    return image.convert("LA").convert(mode) if mode in ("LA", "La") else image.convert(mode)


def numbered(count: int = 5) -> list[Image.Image]:
    return [Image.new("RGB", (64, 48), (50 * number,) * 3) for number in range(count)]


def animation(path, count: int = 5, **options):
    first, *others = numbered(count)
    return save(path, first, save_all=True, append_images=others, **{"duration": 200, **options})


# Range of the mode


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.pgm"])
def test_grey_of_16_bits_keeps_its_range(tmp_path, name):
    path = save(tmp_path / name, Image.fromarray(RAMP))

    assert load_image_array(path)[0, :, 0].tolist() == list(range(256))


@pytest.mark.parametrize(("mode", "order"), [("I;16", "<u2"), ("I;16L", "<u2"), ("I;16B", ">u2")])
def test_grey_of_16_bits_in_memory_keeps_its_range(mode, order):
    image = Image.frombytes(mode, (256, 4), RAMP.astype(order).tobytes())

    assert load_image_array(image)[0, :, 0].tolist() == list(range(256))


def test_grey_of_16_bits_whose_white_is_zero(tmp_path):
    path = save(tmp_path / "scan.tif", Image.fromarray(RAMP), tiffinfo={262: 0})

    assert load_image_array(path)[0, :, 0].tolist() == list(range(255, -1, -1))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("in_memory", [True, False])
def test_pixels_of_32_bits_are_refused(tmp_path, dtype, in_memory):
    image = Image.fromarray(RAMP.astype(dtype))
    source = image if in_memory else save(tmp_path / "deep.tif", image)

    with pytest.raises(ValueError, match=r"has pixels of 32 bits.*Convert it to 8 or 16 bits"):
        load_image_array(source)


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV"])
def test_other_modes_are_shown_as_they_are(mode):
    image = Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode)

    assert load_image_array(image).min() >= 254


def test_lab_is_converted(tmp_path):
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(Image.new("RGB", (4, 4), (200, 30, 40)), srgb, lab, outputMode="LAB")

    pixels = load_image_array(save(tmp_path / "lab.tif", image))

    assert np.abs(pixels.astype(int) - (200, 30, 40)).max() <= 4


def test_cmyk_is_converted(tmp_path):
    path = save(tmp_path / "print.jpg", Image.new("CMYK", (8, 8), (255, 0, 0, 0)))

    assert np.abs(load_image_array(path).astype(int) - (0, 255, 255)).max() <= 2


# Transparency


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
def test_what_is_transparent_is_white(mode):
    pixels = load_image_array(logo(mode))

    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[12, 12].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.gif"])
def test_what_is_transparent_in_a_file_is_white(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    pixels = load_image_array(save(tmp_path / name, logo(), **options))

    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[12, 12].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("image", "transparent"),
    [
        (Image.new("L", (4, 4), 7), 7),
        (Image.new("RGB", (4, 4), (1, 2, 3)), (1, 2, 3)),
        (Image.new("P", (4, 4), 0), 0),
        (Image.fromarray(np.full((4, 4), 514, np.uint16)), 514),
    ],
    ids=["L", "RGB", "P", "I;16"],
)
def test_a_transparent_colour_is_white(tmp_path, image, transparent):
    assert load_image_array(save(tmp_path / "a.png", image, transparency=transparent)).min() == 255


def test_half_transparent_is_half_white():
    pixels = load_image_array(Image.new("RGBA", (4, 4), (100, 0, 200, 128)))

    assert np.abs(pixels[0, 0].astype(int) - (177, 127, 227)).max() <= 1


def test_frames_in_memory_and_both_streams_show_white():
    processor = build_processor()
    pixels = [load_image_array(logo())]

    assert read_pixels(processor, logo()) == read_pixels(processor, pixels[0])


def read_pixels(processor, image):
    batch = processor(text=IMAGE, images=[image])
    return [batch[name].sum().item() for name in ("pixel_values", "generator_pixel_values")]


# Orientation


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg", "a.tif"])
def test_orientation_is_applied_in_every_format(tmp_path, name):
    image, exif = Image.new("RGB", (8, 6)), Image.Exif()
    image.paste((255, 255, 255), (0, 0, 4, 3))
    exif[0x0112] = 6
    options = {"lossless": True} if name.endswith("webp") else {}

    pixels = load_image_array(save(tmp_path / name, image, exif=exif, **options))

    assert np.abs(pixels.astype(int) - np.rot90(np.array(image), -1)).mean() < 8


def test_the_orientation_of_grey_with_16_bits_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6

    pixels = load_image_array(save(tmp_path / "a.png", Image.fromarray(RAMP), exif=exif))

    assert pixels[:, 0, 0].tolist() == list(range(256))


# Animations and pages


@pytest.mark.parametrize("suffix", ["png", "gif", "webp", "avif"])
def test_an_animated_picture_is_a_film_with_its_times(tmp_path, suffix):
    path = animation(tmp_path / f"a.{suffix}", duration=[200, 300, 100, 400, 200])

    clip = read_video(path)

    assert np.abs(clip.frames[:, 20, 20, 0].astype(int) - [0, 50, 100, 150, 200]).max() <= 3
    assert clip.seconds.tolist() == pytest.approx([0, 0.2, 0.5, 0.6, 1.0])
    assert clip.timed
    assert len(read_video(path, num_frames=2)) == 2


def test_the_picture_before_an_animation_is_not_of_it(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 48), (9, 9, 9)).save(
        path, save_all=True, append_images=numbered(3), duration=200, default_image=True
    )

    assert read_video(path).frames[:, 0, 0, 0].tolist() == [0, 50, 100]


def test_transparent_frames_of_an_animation_are_on_white(tmp_path):
    path = tmp_path / "a.png"
    logo().save(path, save_all=True, append_images=[logo().rotate(90)], duration=100)

    clip = read_video(path)

    assert len(clip) == 2
    assert clip.frames[:, 0, 0].min() == 255


def test_an_animation_is_no_image(tmp_path):
    path = animation(tmp_path / "a.gif")

    for read in (load_image_array, lambda path: read_images([path])):
        with pytest.raises(ValueError, match=r"a\.gif is an animation of 5 frames, not an image"):
            read(path)


def test_pages_are_neither_an_image_nor_a_film(tmp_path):
    path = animation(tmp_path / "a.tif")

    for read in (load_image_array, read_video):
        with pytest.raises(ValueError, match=r"a\.tif is a TIFF file with 5 pages"):
            read(path)


def test_a_thumbnail_in_a_tiff_file_is_passed_over(tmp_path):
    small, large = Image.new("RGB", (8, 6), (9, 9, 9)), Image.new("RGB", (64, 48), (200, 0, 0))
    small.encoderinfo = {"tiffinfo": {254: 1}}

    path = save(tmp_path / "a.tif", large, save_all=True, append_images=[small])

    assert load_image_array(path).shape == (48, 64, 3)


def test_of_a_photo_with_further_pictures_the_first_is_read(tmp_path):
    first, *others = numbered(3)
    path = save(tmp_path / "a.jpg", first, format="MPO", save_all=True, append_images=others)

    assert load_image_array(path).max() == 0
    assert read_video(path).frames.shape == (1, 48, 64, 3)


# What a file is, by its content


def test_a_still_picture_as_a_video_is_one_frame(tmp_path):
    path = save(tmp_path / "a.tif", Image.new("RGB", (8, 6), (200, 0, 0)))

    clip = read_video(path)

    assert clip.frames.shape == (1, 6, 8, 3) and clip.frames[0, 0, 0].tolist() == [200, 0, 0]
    assert clip.seconds.tolist() == [0]


@pytest.mark.parametrize("name", ["wrong.jpg", "wrong.mp4", "WRONG.BMP", "no_suffix", "100%d.png"])
def test_the_name_of_a_picture_does_not_count(tmp_path, name):
    shutil.copy(save(tmp_path / "right.png", Image.new("RGB", (8, 6), (200, 0, 0))), tmp_path / name)

    assert load_image_array(tmp_path / name).shape == (6, 8, 3)
    assert read_video(str(tmp_path / name)).frames.shape == (1, 6, 8, 3)


def test_a_film_is_no_image(tmp_path):
    path = write_video(tmp_path / "film.mp4", 3).rename(tmp_path / "film.png")

    assert len(read_video(path)) == 3
    with pytest.raises(ValueError, match=r"film\.png is a film, not an image"):
        load_image_array(path)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.svg", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "vector drawing"),
        ("a.pdf", b"%PDF-1.7\n", "PDF document. Export its page as PNG"),
        ("a.heic", HEIC, "needs the package pillow-heif"),
        ("a.heic", HEIC.replace(b"ftypheic", b"ftyphevc"), "HEIF image sequence. Convert it to MP4"),
        ("a.png", b"", r"is an empty file \(0 bytes\)"),
        ("a.qoi", b"qoif\0\0\0\x04\0\0\0\x04\x03\0" + bytes(40), "no format that is read|still picture of a format"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path, monkeypatch, name, content, message):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / name).write_bytes(content)

    for read in (load_image_array, read_video):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / name)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif", "gif", "bmp"])
def test_a_picture_that_is_cut_off_is_refused(tmp_path, suffix):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    path = save(tmp_path / f"a.{suffix}", noise)
    whole = path.read_bytes()

    for length in (9, 20, 40, len(whole) // 2):
        path.write_bytes(whole[:length])
        with warnings.catch_warnings(), pytest.raises(ValueError, match="a." + suffix):
            warnings.simplefilter("ignore")
            read_video(path)


@pytest.mark.parametrize(("kind", "side"), [("error", 40), ("ignore", 50)])
def test_a_picture_that_is_too_large_is_refused(tmp_path, monkeypatch, kind, side):
    """PIL warns from its limit on, and raises from twice that."""
    path = save(tmp_path / "bomb.png", Image.new("1", (side, side)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)

    with warnings.catch_warnings(), pytest.raises(ValueError, match=r"bomb\.png is too large.*exceeds limit"):
        warnings.simplefilter(kind, Image.DecompressionBombWarning)
        load_image_array(path)


# Ways to name a picture


def encoded() -> bytes:
    from io import BytesIO

    file = BytesIO()
    logo().save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("form", ["{0}", "data:image/png;base64,{0}", "file"])
def test_addresses_and_base64_are_read_as_files_are(tmp_path, form):
    path = tmp_path / "a b.png"
    path.write_bytes(encoded())
    named = path.as_uri() if form == "file" else form.format(base64.b64encode(encoded()).decode())

    pixels = load_image_array(named)

    assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[12, 12].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "empty text"),
        (" ", "empty text"),
        ("http://127.0.0.1:9/a.png", r"http://127\.0\.0\.1:9/a\.png cannot be downloaded"),
        ("data:image/png;base64,@@@", "is not base64"),
        ("data:text/plain,hello", "does not begin an image in base64"),
        ("file://other.example/a.png", "a file of another machine"),
        ("~/no.png", "`~` is not written out"),
        ("no\0.png", "null character"),
        ("ftp://example.com/a.png", "read from local files only"),
    ],
)
def test_names_that_lead_to_no_picture(source, message):
    processor = build_processor()

    for read in (load_image_array, lambda source: processor(text=IMAGE, images=source)):
        with pytest.raises(ValueError, match=message):
            read(source)
