"""Writes small video files with PyAV, ordinary and odd ones, whose frames say which they are."""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

MILLISECOND = Fraction(1, 1000)


def numbered_frame(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8[H, W, 3]: grey as bright as the number (up to 40); a white block marks the top left corner."""
    frame = np.full((height, width, 3), 10 + 6 * number, np.uint8)
    frame[: height // 4, : width // 4] = 255
    return frame


def frame_number(frame: np.ndarray) -> int:
    """Reads back the number of a `numbered_frame`, upright or turned, after lossy coding."""
    height, width = frame.shape[:2]
    centre = frame[height * 3 // 8 : height * 5 // 8, width * 3 // 8 : width * 5 // 8]
    return round((float(centre.mean()) - 10) / 6)


def write_video(
    path: Path,
    frames: Sequence[np.ndarray] | int = 20,
    milliseconds: Sequence[int] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rotation: int | None = None,
    mirrored: bool = False,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Writes frames shown at `milliseconds` (every 100 ms if None), of pixels `aspect` times as wide as tall."""
    frames = [numbered_frame(number) for number in range(frames)] if isinstance(frames, int) else frames
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = _add_stream(container, codec, pixel_format, frames[0].shape, options)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for packet in _encode(stream, frames, milliseconds):
            container.mux(packet)
    return path if rotation is None else _turn(path, rotation, mirrored)


def _turn(path: Path, degrees: int, mirrored: bool) -> Path:
    """Writes the display matrix of the one track of an MP4, turned against the clock; PyAV can since version 18."""
    data = bytearray(path.read_bytes())
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    sign = -1 if mirrored else 1
    matrix = (sign * cosine, -sine, 0, sign * sine, cosine, 0, 0, 0, 1 << 14)  # the last in 2.30, the others in 16.16
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = b"".join(round(value * 65536).to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data)
    return path


def write_two_sizes(path: Path) -> Path:
    """Writes an MPEG-TS whose frames change from 64x48 to 96x48 after 10 frames."""
    with av.open(str(path), "w", format="mpegts") as container:
        stream = _add_stream(container, "libx264", "yuv420p", (48, 64, 3), {"bf": "0"})
        for packet in _encode(stream, [numbered_frame(number) for number in range(10)]):
            container.mux(packet)
        larger = av.CodecContext.create("libx264", "w")
        larger.width, larger.height, larger.pix_fmt = 96, 48, "yuv420p"
        larger.time_base, larger.options = MILLISECOND, {"bf": "0"}
        for number in [*range(10, 20), None]:
            picture = None if number is None else _picture(numbered_frame(number, 48, 96), 100 * number)
            for packet in larger.encode(picture):
                packet.stream, packet.time_base = stream, MILLISECOND
                container.mux(packet)
    return path


def write_audio(path: Path, cover: bool = False) -> Path:
    """Writes a second of silence and no video, if wanted with an album cover."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        image = container.add_stream("mjpeg", rate=1) if cover else None
        if image is not None:
            image.width, image.height, image.pix_fmt = 64, 48, "yuvj420p"
            image.disposition = av.stream.Disposition.attached_pic.value
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 16000
        for packet in [*stream.encode(samples), *stream.encode(None)]:
            container.mux(packet)
        if image is not None:
            for packet in [*image.encode(_picture(numbered_frame(0), 0)), *image.encode(None)]:
                container.mux(packet)
    return path


def write_without_frames(path: Path) -> Path:
    """Writes a video file with a video stream of no frames."""
    with av.open(str(path), "w") as container:
        _add_stream(container, "libx264", "yuv420p", (48, 64, 3), None)
        container.start_encoding()
    return path


def _add_stream(container, codec: str, pixel_format: str, shape: tuple[int, ...], options: dict[str, str] | None):
    stream = container.add_stream(codec, rate=10, options=options or {})
    stream.height, stream.width = shape[:2]
    stream.pix_fmt, stream.codec_context.time_base = pixel_format, MILLISECOND
    return stream


def _picture(frame: np.ndarray, millisecond: int) -> av.VideoFrame:
    picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
    picture.pts, picture.time_base = millisecond, MILLISECOND
    return picture


def _encode(stream, frames: Sequence[np.ndarray], milliseconds: Sequence[int] | None = None) -> Iterator[av.Packet]:
    for number, frame in enumerate(frames):
        yield from stream.encode(_picture(frame, 100 * number if milliseconds is None else milliseconds[number]))
    yield from stream.encode(None)
