"""Reads pictures and animations of PIL, and says what their pixels mean: RGB of 8 bits, upright, on white."""

import base64
import binascii
import mimetypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps
from PIL.ExifTags import Base

from .media_files_vega3d import HEAD, check_file, is_film, local_path, picture_format, read_head

DOWNLOAD_SECONDS = 30.0
# What players do with a frame that is to be shown for 10 ms or less, which no screen can: they show it for 100.
SHORTEST_MS, USUAL_MS = 10, 100
_NOT_READ = {
    "PDF": "a PDF document. Export its page as PNG",
    "SVG": "a vector drawing (SVG). Export it as PNG",
    "HEIF SEQUENCE": "a HEIF image sequence. Convert it to MP4, or export one picture as PNG",
}
# Tags of TIFF.
_NEW_SUBFILE_TYPE, _BITS_PER_SAMPLE, _PHOTOMETRIC, _DNG_VERSION = 254, 258, 262, 50706
_WHITE_IS_ZERO = 0


@dataclass(frozen=True, eq=False)
class Animation:
    """The times of the frames of an animated picture.

    Attributes:
        pages: int64[T], numbers of the frames as PIL counts them.
        seconds: float64[T], when each begins [s].
    """

    pages: np.ndarray
    seconds: np.ndarray


def read_picture(source: str | Path) -> np.ndarray:
    """Reads uint8[H, W, 3] of a picture: a path, an address (http, https, file), a data URL, or base64 text.

    Raises:
        ValueError: if it cannot be read, or shows more than one picture.
    """
    name, data = _source(source)
    with _opened(name, data) as image:
        page = _only_page(name, image)
        if page != image.tell():
            image.seek(page)
        return picture_pixels(image, name)


def is_picture(path: Path) -> bool:
    """Whether PIL, not FFmpeg, reads a file; a stream of JPEG pictures one after another is FFmpeg's."""
    name = picture_format(read_head(path))
    return name is not None and not (name == "JPEG" and _is_jpeg_stream(path))


def names_still(source: str | Path) -> bool:
    """Whether a path or address is of a still picture, by its content; by its name where there is no such file."""
    if str(source).startswith(("http://", "https://", "data:")):
        return not (mimetypes.guess_type(str(source))[0] or "image/").startswith("video/")
    path = local_path(source, "image")
    if not path.is_file():
        return (mimetypes.guess_type(path.name.lower())[0] or "").startswith("image/")
    if not is_picture(path):
        return False
    try:
        with _opened(str(path), path) as image:
            return not _is_animated(image)
    except ValueError:
        return True  # reading it says what is wrong


def read_animation(path: Path) -> Animation | None:
    """Reads the times of an animated picture (GIF, PNG, WebP, AVIF); None for a still one.

    Raises:
        ValueError: if the file is damaged, or is no picture that is read.
    """
    with _opened(str(path), path) as image:
        if not _is_animated(image):
            return None
        # The picture that an animated PNG shows where animations are not known need not be part of it.
        first = 1 if image.format == "PNG" and image.default_image else 0
        pages, durations = np.arange(first, image.n_frames), []
        for page in pages.tolist():
            image.seek(page)
            if image.format in ("WEBP", "AVIF"):
                image.load()  # sets the duration
            duration = float(image.info.get("duration", 0))
            durations.append(duration if duration > SHORTEST_MS else USUAL_MS)
    return Animation(pages, np.concatenate([[0.0], np.cumsum(durations[:-1])]) / 1000)


def read_pages(path: Path, pages: np.ndarray) -> list[np.ndarray]:
    """Reads uint8[H, W, 3] of frames of an animated picture, int64[n] in increasing order."""
    frames = []
    with _opened(str(path), path) as image:
        for page in pages.tolist():
            image.seek(page)
            frames.append(picture_pixels(image, str(path)))
    return frames


def picture_pixels(image: Image.Image, name: str = "the image") -> np.ndarray:
    """Returns uint8[H, W, 3], RGB, upright as the EXIF orientation says; what is transparent shows white.

    Grey of 16 bits is divided by 257. Colour profiles are not applied.

    Raises:
        ValueError: if the mode has a range that is not known, or no way to RGB.
    """
    try:
        image.load()
        rgb = _rgb(image, name)
        # The orientation of some formats lies in tags that a conversion loses.
        rgb.getexif()[Base.Orientation] = image.getexif().get(Base.Orientation, 1)
        return np.array(ImageOps.exif_transpose(rgb))
    except Exception as error:
        raise _unreadable(name, error) from error


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _rgb_of_16_bits(image)
    if image.mode in ("I", "F"):
        raise ValueError(
            f"{name} has pixels of 32 bits (mode {image.mode!r}), whose range from black to white is not known. "
            "Convert it to 8 or 16 bits."
        )
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    if image.has_transparency_data:
        # Premultiplied grey converts to grey with alpha only.
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _rgb_of_16_bits(image: Any) -> Image.Image:
    values = np.array(image).astype(np.int64)
    tags = image.tag_v2 if image.format == "TIFF" else {}
    most = 2 ** min(tags.get(_BITS_PER_SAMPLE, (16,))[0], 16) - 1
    grey = values * 255 // most
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    if isinstance(image.info.get("transparency"), int):
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _is_animated(image: Any) -> bool:
    # MPO, TIFF and HEIF hold several pictures that are no film.
    return image.format in ("GIF", "PNG", "WEBP", "AVIF") and image.n_frames > 1


def _only_page(name: str, image: Any) -> int:
    """The page that is the picture; a ValueError if several could be."""
    if _is_animated(image):
        raise ValueError(
            f"{name} is an animation of {image.n_frames} frames, not an image. Give it as a video, or save one frame."
        )
    if image.format != "TIFF":
        return 0
    if _DNG_VERSION in image.tag_v2:
        raise ValueError(f"{name} is a raw file of a camera (DNG). Develop it, and export it as PNG or JPEG.")
    full = []
    for page in range(image.n_frames):
        image.seek(page)
        # 1 is a reduced copy of another page, 4 a mask of one.
        if not image.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & 5:
            full.append(page)
    if len(full) != 1:
        raise ValueError(
            f"{name} is a TIFF file with {image.n_frames} pages, of which {len(full)} are pictures in full size; "
            "pages are neither one image nor a film. Save each page that you want as a file of its own."
        )
    return full[0]


@contextmanager
def _opened(name: str, data: Path | BytesIO) -> Iterator[Any]:
    """Opens a picture of a format that is read; PIL's errors, of whatever type, become a ValueError."""
    head = read_head(data) if isinstance(data, Path) else data.getvalue()[:HEAD]
    known = picture_format(head)
    if known in _NOT_READ:
        raise ValueError(f"{name} cannot be read as an image: it is {_NOT_READ[known]}.")
    if known is None and is_film(head):
        raise ValueError(f"{name} is a film, not an image. Give it as a video, or save one frame.")
    if known is None:
        raise ValueError(
            f"{name} cannot be read as an image: its content is of no format that is read (PNG, JPEG, WebP, GIF, BMP, "
            "TIFF, AVIF, HEIF, JPEG 2000, PPM). Convert it to PNG."
        )
    _prepare_reader(name, known)
    try:
        with Image.open(data, formats=[known]) as image:
            yield image
    except Exception as error:
        raise _unreadable(name, error) from error


def _prepare_reader(name: str, known: str) -> None:
    if known in ("PNG", "JPEG", "GIF", "BMP", "PPM"):
        return
    Image.init()
    if known == "HEIF" and "HEIF" not in Image.OPEN:
        try:
            import pillow_heif
        except ImportError as error:
            raise ValueError(
                f"{name} is a HEIF (HEIC) image, which needs the package pillow-heif: `pip install pillow-heif`, or "
                "export it as JPEG or PNG."
            ) from error
        pillow_heif.register_heif_opener()
    if known not in Image.OPEN:
        raise ValueError(f"{name} is a {known} image, which the installed Pillow does not read. Convert it to PNG.")


def _unreadable(name: str, error: Exception) -> ValueError:
    """PIL raises OSError, SyntaxError, struct.error and more, whatever a damaged file makes it stumble upon."""
    if isinstance(error, ValueError) and name in str(error):
        return error
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return ValueError(f"{name} is too large to be read as an image: {error} Make it smaller.")
    return ValueError(f"{name} cannot be read as an image ({error}). Copy or export it again.")


def _is_jpeg_stream(path: Path) -> bool:
    """Whether pictures follow one another as in motion JPEG; a photo may bring one more, or list them."""
    data = path.read_bytes()
    return data.count(b"\xff\xd9\xff\xd8\xff") > 1 and b"MPF\0" not in data[:65536]


def _source(source: str | Path) -> tuple[str, Path | BytesIO]:
    """The name of a picture for messages, and its file or its bytes."""
    text = str(source)
    if text.startswith(("http://", "https://")):
        return text, BytesIO(_download(text))
    if isinstance(source, str) and text.startswith("data:"):
        header, _, encoded = text.partition(",")
        if not header.startswith("data:image/") or not header.endswith(";base64"):
            raise ValueError(f"{header[:80]!r} does not begin an image in base64: `data:image/...;base64,`.")
        return "the image given as base64", BytesIO(_decode(encoded, header))
    if isinstance(source, str) and len(text) > 20 and not text.startswith("file://"):
        data = _try_base64(text)
        if data is not None:
            return "the image given as base64", data
    path = check_file(source, "image")
    return str(path), path


def _try_base64(text: str) -> BytesIO | None:
    """The bytes of a picture as text, if it is no path and they are a picture."""
    try:
        if Path(text).exists():
            return None
    except (OSError, ValueError):
        pass
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return BytesIO(data) if picture_format(data[:HEAD]) else None


def _decode(encoded: str, header: str) -> bytes:
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"What follows {header!r} is not base64 ({error}). Encode the file again.") from error


def _download(address: str) -> bytes:
    import httpx

    try:
        response = httpx.get(address, timeout=DOWNLOAD_SECONDS, follow_redirects=True)
        response.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ValueError(
            f"{address} cannot be downloaded ({error or type(error).__name__}). Check the address, or give a file."
        ) from error
    return response.content
