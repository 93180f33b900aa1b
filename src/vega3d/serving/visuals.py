"""Images and videos that a request names: found where the server allows it, bounded, and read."""

import base64
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from PIL import Image

from vega3d.inference.encoding import read_frames
from vega3d.inference.session import Session
from vega3d.processing.media_files_vega3d import Kind, is_picture, kind_of, read_animation
from vega3d.processing.media_vega3d import load_image_array
from vega3d.processing.sampling_vega3d import choose_frames
from vega3d.processing.video_decoding_vega3d import decode_timeline, read_timeline
from vega3d.processing.video_vega3d import VideoClip
from vega3d.questions import SpatialQuestion
from vega3d.serving.downloads import download, is_public
from vega3d.serving.requests import Visual
from vega3d.serving.settings import ApiError, ServerSettings

MAX_PIXELS = 2**28  # of all frames of a visual together; 32 of 3840 x 2160
ABOUT = "What is there?"  # stands for the question where a visual is encoded for all


class Shown(NamedTuple):
    """A visual as a session takes it, and its frames if it is not in the session's memory yet."""

    asked: SpatialQuestion
    frames: VideoClip | None


@dataclass(frozen=True)
class Finder:
    """Reads visuals for a session, from where the settings allow it.

    Attributes:
        session: whose memory is looked into, so that no clip is decoded twice.
        settings: which sources are allowed, and how large a visual may be.
        is_allowed: which IP addresses are connected to.
    """

    session: Session
    settings: ServerSettings
    is_allowed: Callable[[str], bool] = is_public

    def read(self, visuals: Sequence[Visual], folder: Path) -> list[Shown]:
        """The visuals of a request; what comes with it is written into `folder`, which lives until they are encoded.

        Raises:
            ApiError: 400, which names the part of the request.
        """
        shown = []
        for number, visual in enumerate(visuals):
            with placed_errors(visual.place):
                file = self.file(visual.url, folder / str(number))
            with placed_errors(visual.place, file):
                shown.append(self.shown(visual, file))
        return shown

    def file(self, url: str, copy: Path) -> Path:
        """The file of a visual, at `copy` unless it is one of the server's; raises ValueError if it is not allowed."""
        scheme = urlsplit(url[:2000]).scheme.lower() if ":" in url[:20] else ""
        if scheme == "data":
            copy.write_bytes(from_data_url(url))
        elif scheme in ("http", "https"):
            if not self.settings.allow_urls:
                raise ValueError(f"addresses are not fetched here: {self.taken}")
            copy.write_bytes(download(url, self.settings.max_body, self.is_allowed))
        elif scheme in ("", "file"):
            return self.own_file(url)
        else:
            raise ValueError(f"{url[:80]!r} is of a kind that is not taken: {self.taken}")
        return copy

    @property
    def taken(self) -> str:
        return f"this server takes {self.settings.sources}. Send the visual as data:video/mp4;base64,..."

    def own_file(self, url: str) -> Path:
        """A file under the root, by a path in it or a file:// address.

        Raises ValueError, in the same words whether there is such a file elsewhere or not.
        """
        root = self.settings.files_root
        if root is None:
            raise ValueError(f"files are not read here: {self.taken}")
        path = url
        if url.lower().startswith("file:"):
            parts = urlsplit(url)
            path = unquote(parts.path) if parts.netloc in ("", "localhost") else ""
        refused = ValueError(f"{url[:200]!r} is no file under the server's --files-root. Name one by its path in it.")
        try:
            found = (root / path).resolve(strict=True)
            if not found.is_relative_to(root) or not found.is_file():
                raise refused
            size = found.stat().st_size
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links
            raise refused from error
        if size > self.settings.max_body:
            raise ValueError(
                f"the file has {size} bytes, but at most {self.settings.max_body} are taken (--max-body). Shorten it."
            )
        return found

    def shown(self, visual: Visual, file: Path) -> Shown:
        """The visual of a file, with its frames if it has to be encoded; raises ValueError if it cannot be read."""
        if file.stat().st_size == 0:
            raise ValueError("the file is empty (0 bytes). Send it again.")
        if kind_of(file) is Kind.OTHER:
            raise ValueError(f"this is no {visual.kind} of a usual format. Convert it to MP4 or PNG.")
        if visual.kind == "image":
            return Shown(SpatialQuestion(load_image_array(file), ABOUT, is_image=True), None)
        asked = SpatialQuestion(file, ABOUT)
        if self.session.is_encoded(asked):
            return Shown(asked, None)
        self.check_pixels(file)
        return Shown(asked, read_frames(asked, self.session.num_frames, self.session.fps))

    def check_pixels(self, file: Path) -> None:
        """Raises ValueError, before anything is decoded, if the chosen frames would not fit into memory."""
        if is_picture(file):
            animation = read_animation(file)
            with Image.open(file) as image:
                width, height = image.size
            seconds = None if animation is None else animation.seconds
        else:
            import av

            seconds = (read_timeline(file) or decode_timeline(file)).seconds  # refuses what is no video
            with av.open(str(file)) as container:
                shown = container.streams.video
                width, height = max(stream.width for stream in shown), max(stream.height for stream in shown)
        count = 1 if seconds is None else len(choose_frames(seconds, self.session.num_frames, self.session.fps))
        if count * width * height > MAX_PIXELS:
            raise ValueError(
                f"{count} frames of {width}x{height} are {count * width * height} pixels, but at most {MAX_PIXELS} "
                "are taken. Make the video smaller."
            )


def from_data_url(url: str) -> bytes:
    header, comma, encoded = url.partition(",")
    if not comma or not header.endswith(";base64"):
        raise ValueError(f"{header[:80]!r} begins no data in base64. Write data:video/mp4;base64,... without spaces.")
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise ValueError(f"what follows {header[:80]!r} is not base64 ({error}). Encode the file again.") from error


@contextmanager
def placed_errors(place: str, file: Path | None = None):
    """A fault of a visual as a 400, which names its place in the request, and no folder of the server."""
    try:
        yield
    except ValueError as error:
        said = str(error) if file is None else str(error).replace(str(file), f"the {place} file")
        raise ApiError(400, f"{place}: {said}", "invalid_visual", place) from error
