"""Files that a caller names: what each one is, by its content and never by its name, and the pixels of pictures."""

import base64
import contextlib
import logging
import mimetypes
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image, ImageCms, ImageOps
from PIL.ExifTags import Base

logger = logging.getLogger(__name__)
USUAL_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".avif", ".heic", ".jp2", ".ppm")
# The systems' own files beside the pictures; names that begin with a dot are passed over as well.
SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini")
HEAD = 4096  # bytes; two packets of MPEG-TS, all brands of an ISO file, the root of an SVG

_PICTURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)
_BMP_HEADERS = [size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124)]
_FILMS = (b"\x1aE\xdf\xa3", b"FLV\x01", b"OggS", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"0&\xb2u\x8ef\xcf\x11", b".RMF")
_ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"}

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


class Kind(Enum):
    """What reads a file: PIL (one picture, or an animation of pictures), FFmpeg, or neither."""

    PICTURE = "picture"
    FILM = "film"
    OTHER = "other"


def check_file(source: str | Path, what: str) -> Path:
    """The path of a file on this machine, given as a path or a `file://` address.

    Raises ValueError if it is empty text, another address, no regular file, or a file of 0 bytes. The message names
    `what` it should be, "image" or "video".
    """
    path = local_path(source, what)
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder, not {'an image' if what == 'image' else 'a video'} file. For a folder of images "
            "use `read_images`."
        )
    if not path.is_file():
        if path.exists():
            raise ValueError(f"{path} is no regular file (a pipe, socket or device). Save the {what} as a file first.")
        home = " `~` is not written out here: give the whole path." if str(source).startswith("~") else ""
        raise ValueError(f"{path}: there is no such {what} file. Check the path (working folder: {Path.cwd()}).{home}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is an empty file (0 bytes). Copy or download it again.")
    return path


def local_path(source: str | Path, what: str) -> Path:
    """A path or `file://` address as a Path; raises a ValueError for text that cannot be one."""
    text = str(source)
    if isinstance(source, str) and not source.strip():
        raise ValueError(f"Got empty text ({source!r}) as a path. Give the path of the {what}.")
    if "\0" in text:
        raise ValueError(f"Got {_short(text)} as the path of the {what}: it holds a null character.")
    if text.startswith("file://"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"{text} names a file of another machine ({parts.netloc}). Copy it and give its path.")
        return Path(unquote(parts.path))
    if "://" in text:
        raise ValueError(f"{text}: {what}s are read from local files only. Download it and give the path.")
    if text.startswith("data:"):
        raise ValueError(f"{_short(text)} holds data, not a path. Save the {what} as a file and give the path.")
    try:
        os.stat(text)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise ValueError(f"{_short(text)} cannot be a path ({error.strerror}). Give the {what} as a file.") from error
    return Path(text)


def picture_format(data: bytes) -> str | None:
    """The format of a picture by the beginning of its file, as PIL calls it, or None if it is no picture.

    "HEIF SEQUENCE", "SVG" and "PDF" are names of our own for formats that are recognised, but not read.
    """
    for magic, name in _PICTURES:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and data[14:18] in _BMP_HEADERS:
        return "BMP"
    if re.match(rb"P([1-6]\s+(#[^\n]*\n\s*)*\d|[7Ff]\n)", data):
        return "PPM"
    if data.startswith(b"%PDF"):
        return "PDF"
    if re.match(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>|<!--.*?-->|<!DOCTYPE svg[^>]*>|\s)*<svg[\s>]", data, re.DOTALL):
        return "SVG"
    return _iso_picture(data) if data[4:8] == b"ftyp" else None


def _iso_picture(data: bytes) -> str | None:
    """The format of a HEIF or AVIF picture: both share their container with MP4, and differ in the brands."""
    length = int.from_bytes(data[:4], "big")
    major = data[8:12]
    brands = {major, *(data[place : place + 4] for place in range(16, min(length, len(data)), 4))}
    if major in _AVIF_BRANDS or (major in _HEIF_BRANDS and brands & _AVIF_BRANDS):
        return "AVIF"
    if major in (b"hevc", b"hevx", b"msf1"):
        return "HEIF SEQUENCE"
    return "HEIF" if major in _HEIF_BRANDS else None


def read_head(path: Path) -> bytes:
    """The first bytes of a file; raises a ValueError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error


def kind_of(path: Path) -> Kind:
    """The kind of a file in a folder; films are recognised in the usual containers only."""
    data = read_head(path)
    if picture_format(data) not in (None, "PDF"):
        return Kind.PICTURE
    return Kind.FILM if is_film(data) else Kind.OTHER


def is_film(data: bytes) -> bool:
    """Whether the beginning of a file is that of a usual container of films."""
    is_riff_film = data[:4] == b"RIFF" and data[8:12] == b"AVI "
    is_transport = len(data) > 376 and data[0] == data[188] == data[376] == 0x47
    return data.startswith(_FILMS) or data[4:8] in _ISO_BOXES or is_riff_film or is_transport


def is_named_as_medium(path: Path) -> bool:
    """Whether the name promises a picture or a film, whatever the file holds."""
    guessed = mimetypes.guess_type(path.name.lower())[0] or ""
    return guessed.startswith(("image/", "video/")) or path.suffix.lower() in (".heic", ".heif", ".avif", ".mkv")


def list_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order, in which numbers are compared by value.

    Hidden files, the system's own files, and files that are no media by content and by name are ignored. Films, and
    folders with media, are named in a logged warning. Raises ValueError if there is no picture, or a file is named as
    a medium, but cannot be read as one.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder of images. Check the path, or give a list of files.")
    pictures, left_out = [], []
    for entry in sorted(folder.iterdir(), key=_natural_order):
        if _is_passed_over(entry):
            continue
        kind = kind_of(entry) if entry.is_file() else Kind.OTHER
        if kind is Kind.PICTURE:
            pictures.append(entry)
        elif kind is Kind.FILM or (entry.is_dir() and _has_media(entry)):
            left_out.append(entry.name)
        elif is_named_as_medium(entry) and not entry.is_dir():
            raise ValueError(
                f"{folder} holds {entry.name}, which is empty, damaged, of a format that is not read, a broken link "
                "or no regular file. Convert it to PNG, or remove it from the folder."
            )
    if not pictures:
        found = f", but {', '.join(left_out)}: give that itself" if left_out else ""
        raise ValueError(
            f"{folder} holds no images{found}. Supported suffixes: {', '.join(USUAL_SUFFIXES)}; what counts is the "
            "content."
        )
    if left_out:
        logger.warning("note: %s is read as a folder of images, without %s", folder, ", ".join(left_out))
    return pictures


def _is_passed_over(entry: Path) -> bool:
    return entry.name.startswith(".") or entry.name.lower() in SYSTEM_FILES


def _has_media(folder: Path) -> bool:
    for entry in folder.rglob("*"):
        if any(_is_passed_over(folder / part) for part in entry.relative_to(folder).parts) or not entry.is_file():
            continue
        if is_named_as_medium(entry) or kind_of(entry) is not Kind.OTHER:
            return True
    return False


def _natural_order(file: Path) -> list[str | int]:
    # Splitting at a captured group puts the numbers at the odd places, so only like is compared with like.
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"([0-9]+)", file.name))]


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


# --- Pictures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Animation:
    """The times of the frames of an animated picture."""

    pages: np.ndarray  # int64[T], numbers of the frames as PIL counts them
    seconds: np.ndarray  # float64[T], when each begins [s]


def read_picture(source: str | Path) -> np.ndarray:
    """The pixels uint8[H, W, 3] of a picture: a path, an address (http, https, file), a data URL, or base64 text.

    Raises ValueError if it cannot be read, or shows more than one picture.
    """
    name, data = _source(source)
    with _opened(name, data) as image:
        page = _only_page(name, image)
        if page != image.tell():
            image.seek(page)
        return picture_pixels(image, name)


def is_picture(path: Path) -> bool:
    """Whether PIL reads a file, not FFmpeg. A stream of JPEG pictures one after another is read by FFmpeg."""
    name = picture_format(read_head(path))
    return name is not None and not (name == "JPEG" and _is_jpeg_stream(path))


def names_still(source: str | Path) -> bool:
    """Whether a path or address is that of a still picture: by its content, or by its name if there is no file."""
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
    """The times of an animated picture (GIF, PNG, WebP, AVIF), or None for a still one.

    Raises ValueError if the file is damaged, or is no picture that is read.
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
    """The pixels uint8[H, W, 3] of some frames of an animated picture; `pages` int64[n] increase."""
    frames = []
    with _opened(str(path), path) as image:
        for page in pages.tolist():
            image.seek(page)
            frames.append(picture_pixels(image, str(path)))
    return frames


def picture_pixels(image: Image.Image, name: str = "the image") -> np.ndarray:
    """The pixels uint8[H, W, 3], RGB, upright as the EXIF orientation says; transparent ones show white.

    Grey of 16 bits is divided by 257. Colour profiles are not applied. Raises ValueError if the mode has a range that
    is not known, or no way to RGB.
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
    """The number of the page that is the picture; raises a ValueError if several could be."""
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


@contextlib.contextmanager
def _opened(name: str, data: Path | BytesIO) -> Iterator[Any]:
    """The open picture; PIL's errors, whatever their type, become a ValueError, as does a format that is not read."""
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
    """The error of a picture that PIL cannot read. PIL raises OSError, SyntaxError, struct.error and more."""
    if isinstance(error, ValueError) and name in str(error):
        return error
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return ValueError(f"{name} is too large to be read as an image: {error} Make it smaller.")
    return ValueError(f"{name} cannot be read as an image ({error}). Copy or export it again.")


def _is_jpeg_stream(path: Path) -> bool:
    """Whether pictures follow one another as in motion JPEG; a photo may hold one more, or (MPF) a list of them."""
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
        try:
            return "the image given as base64", BytesIO(_from_base64(encoded))
        except ValueError as error:
            raise ValueError(f"What follows {header!r} is not base64 ({error}). Encode the file again.") from error
    if isinstance(source, str) and len(text) > 20 and not text.startswith("file://"):
        data = _try_base64(text)
        if data is not None:
            return "the image given as base64", data
    path = check_file(source, "image")
    return str(path), path


def _try_base64(text: str) -> BytesIO | None:
    """The bytes of a picture as text, or None if the text is a path, or holds no picture."""
    with contextlib.suppress(OSError, ValueError):
        if Path(text).exists():
            return None
    with contextlib.suppress(ValueError):
        data = _from_base64(text)
        return BytesIO(data) if picture_format(data[:HEAD]) else None
    return None


def _from_base64(text: str) -> bytes:
    return base64.b64decode("".join(text.split()), validate=True)  # binascii.Error is a ValueError


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
