"""What a file that a caller names is: a picture, a film, or neither, by its content and never by its name."""

import logging
import mimetypes
import os
import re
from enum import Enum
from pathlib import Path
from urllib.parse import unquote, urlsplit

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


class Kind(Enum):
    """Whether PIL reads a file (one picture, or an animation of pictures), FFmpeg does, or neither."""

    PICTURE = "picture"
    FILM = "film"
    OTHER = "other"


def check_file(source: str | Path, what: str) -> Path:
    """Returns the path of a file on this machine.

    Args:
        source: path, or `file://` address.
        what: "image" or "video", for messages.

    Raises:
        ValueError: if it is empty text, another address, no regular file, or a file of 0 bytes.
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
    """Returns a path or `file://` address as a Path; raises a ValueError for text that cannot be one."""
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
    """Names the format of a picture by the beginning of its file, as PIL calls it; None: it is no picture.

    "HEIF SEQUENCE", "SVG" and "PDF" are names of our own, for what no reader here takes.
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
    """HEIF and AVIF share their container with MP4; the brands tell them apart, first of all the major one."""
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
    """Says what a file is, for a folder that holds many; a film is told by the usual containers only."""
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
    """Lists the pictures of a folder in natural order, that is with numbers compared by value.

    Hidden files, those of the system, and what is neither a picture nor a film, by content and by name, are passed
    over. Films, and folders with media, are named in a note on standard error.

    Raises:
        ValueError: if there is no picture, or a file is named as a medium, but cannot be read as one.
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
