"""Decodes chosen frames of a video file with PyAV, in bounded memory.

PyAV is imported where a file is opened: who has frames in memory can do without it.
"""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

# What FFmpeg also opens: text drawn as pictures, and lists that name other files or addresses.
TEXT_FORMATS = ("tty", "concat", "hls", "dash")


@dataclass(frozen=True)
class _PacketTimes:
    pts: int | None
    dts: int | None
    is_keyframe: bool
    is_discard: bool


@dataclass(frozen=True, eq=False)
class Timeline:
    """When the frames of a video stream are shown.

    Attributes:
        pts: int64[T], increasing presentation times in units of `time_base`.
        time_base: seconds of one unit.
        keyframes: (pts, place to seek to) of each keyframe, in increasing order; empty: decode from the start.
    """

    pts: np.ndarray
    time_base: float
    keyframes: tuple[tuple[int, int], ...]

    @property
    def seconds(self) -> np.ndarray:
        """float64[T], times from the first frame [s]."""
        return (self.pts - self.pts[0]) * self.time_base


def check_video_file(path: str | Path) -> Path:
    """Returns `path` as a Path; raises a ValueError if it is no file on this machine or an empty one."""
    if "://" in str(path):
        raise ValueError(f"{path}: videos are read from local files only. Download it and give the path.")
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a video file. For a folder of images use `read_images`.")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such video file. Check the path (working folder: {Path.cwd()}).")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is an empty file (0 bytes). Copy or download it again.")
    return path


def read_timeline(path: Path) -> Timeline | None:
    """Reads the times of the frames from the packets, without decoding (an hour of video in about a second).

    Returns:
        The timeline, or None if the packets do not carry one distinct time each.

    Raises:
        ValueError: if the file is no video, or holds fewer intact frames than it announces.
    """
    packets, announced, time_base = _demux(path)
    if len(packets) < announced:
        raise ValueError(
            f"{path} announces {announced} frames, but only {len(packets)} can be read: the file is cut off or "
            "damaged. Copy or download it again, or re-encode what is left of it."
        )
    if not packets:
        raise ValueError(f"{path} holds no frames (0 packets in its video stream). Record or export it again.")
    # Seeking looks at decoding times where there are any; a keyframe's is never after its presentation time.
    timed = [
        (packet.pts, packet.pts if packet.dts is None else packet.dts, packet)
        for packet in packets
        if packet.pts is not None
    ]
    shown = sorted(pts for pts, _, packet in timed if not packet.is_discard)
    if len(timed) < len(packets) or not shown or len(set(shown)) < len(shown):
        return None
    targets = tuple(sorted((pts, place) for pts, place, packet in timed if packet.is_keyframe))
    return Timeline(np.array(shown), time_base, targets)


def decode_timeline(path: Path) -> Timeline:
    """Reads the times of the frames by decoding the whole stream.

    Raises:
        ValueError: if nothing can be decoded, or the frames do not carry increasing times.
    """
    with _open_video(path) as (container, stream):
        pts = [frame.pts for frame in _decoded(path, container, stream)]
        time_base = float(stream.time_base)
    if not pts:
        raise ValueError(f"{path} holds no frame that can be decoded (0 decoded). Record or export it again.")
    known = [time for time in pts if time is not None]
    if len(known) < len(pts) or any(later <= earlier for earlier, later in pairwise(known)):
        raise ValueError(
            f"{path}: its {len(pts)} frames do not carry increasing presentation times. Write it as MP4 with times, "
            "for example `ffmpeg -fflags +genpts -i input output.mp4`, or read its frames and use `clip_from_frames`."
        )
    return Timeline(np.array(known), time_base, ())


def decode_frames(path: Path, timeline: Timeline, indices: np.ndarray) -> list[np.ndarray] | None:
    """Decodes the chosen frames and turns them upright, seeking over what lies between.

    Args:
        path: the video file.
        timeline: when its frames are shown.
        indices: int64[n], increasing rows of `timeline.pts`.

    Returns:
        n arrays uint8[H, W, 3]; or None if the decoder gives no frame at one of the times.

    Raises:
        ValueError: if the stream is damaged, or its frames differ in size.
    """
    starts = [pts for pts, _ in timeline.keyframes]
    frames = []
    with _open_video(path) as (container, stream):
        decoded, group = _decoded(path, container, stream), 0
        for pts in timeline.pts[indices].tolist():
            keyframe = max(bisect_right(starts, pts) - 1, 0)
            if keyframe > group:
                container.seek(timeline.keyframes[keyframe][1], stream=stream)
                decoded, group = _decoded(path, container, stream), keyframe
            frame = next((frame for frame in decoded if frame.pts is None or frame.pts >= pts), None)
            if frame is None or frame.pts != pts:
                return None
            frames.append(_upright(path, frame))
            _check_size(path, frames[0], frames[-1], (pts - timeline.pts[0]) * timeline.time_base)
    return frames


@contextmanager
def _open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """Opens a file: its container and first video stream (an album cover does not count)."""
    import av

    try:
        container = av.open(str(path))
    except av.FFmpegError as error:
        raise ValueError(
            f"{path} is not a video that FFmpeg can open ({error.strerror}): it is another kind of file, or it was "
            "cut off while being written. Play it to check, then convert, copy or download it again."
        ) from error
    with container:
        if container.format.name in TEXT_FORMATS:
            raise ValueError(f"{path} is text ({container.format.name}), not a video. Give the video file itself.")
        covers = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & covers]
        if not streams:
            kinds = ", ".join(stream.type for stream in container.streams) or "none"
            raise ValueError(f"{path} holds no video stream (its streams: {kinds}). Give a file with pictures.")
        streams[0].thread_type = "AUTO"
        yield container, streams[0]


def _demux(path: Path) -> tuple[list[_PacketTimes], int, float]:
    """Returns the intact packets, how many frames are announced, and the seconds of one time unit."""
    import av

    packets, damaged = [], 0
    with _open_video(path) as (container, stream):
        try:
            for packet in container.demux(stream):
                if packet.pts is None and packet.dts is None and packet.size == 0:
                    continue
                damaged += packet.is_corrupt
                if not packet.is_corrupt:
                    packets.append(_PacketTimes(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
        except av.FFmpegError:
            damaged += 1
        # MP4 indexes every frame; other containers index keyframes, or nothing.
        return packets, max(len(stream.index_entries), len(packets) + damaged), float(stream.time_base)


def _decoded(path: Path, container, stream) -> Iterator[Any]:
    """Decodes on from the current place."""
    import av

    count = 0
    try:
        for frame in container.decode(stream):
            count += 1
            yield frame
    except av.FFmpegError as error:
        raise ValueError(
            f"{path}: decoding failed after {count} frames ({error.strerror}): the file is damaged or cut off. "
            "Copy or download it again, or re-encode what is left of it."
        ) from error


def _upright(path: Path, frame: Any) -> np.ndarray:
    """Returns uint8[H, W, 3], turned and mirrored as the display matrix of the frame says."""
    pixels = frame.to_ndarray(format="rgb24")
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    # x' = a x + c y, y' = b x + d y. `frame.rotation` is not enough: a mirrored frame reads as turned by 180 degrees.
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if bool(a) == bool(b) or bool(a) != bool(d) or bool(b) != bool(c):
        raise ValueError(
            f"{path}: its frames are stored rotated by {frame.rotation} degrees; only multiples of 90 can be shown "
            "without cutting. Re-encode it upright, for example `ffmpeg -i input output.mp4`."
        )
    if a == 0:
        pixels = pixels.transpose(1, 0, 2)
    horizontal, vertical = (a, d) if a else (c, b)
    return np.ascontiguousarray(pixels[:: 1 if vertical > 0 else -1, :: 1 if horizontal > 0 else -1])


def _check_size(path: Path, first: np.ndarray, frame: np.ndarray, second: float) -> None:
    if frame.shape != first.shape:
        raise ValueError(
            f"{path}: the frame size changes from {first.shape[1]}x{first.shape[0]} to "
            f"{frame.shape[1]}x{frame.shape[0]} (width x height) at {second:.3f} s. Split it there, or re-encode it."
        )
