"""Decodes chosen frames of a video file with PyAV, in bounded memory.

PyAV is imported where a file is opened: who has frames in memory can do without it.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import dropwhile, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .frame_pixels_vega3d import display_of, display_pixels

# What FFmpeg also opens: text drawn as pictures, and lists that name other files or addresses.
TEXT_FORMATS = ("tty", "concat", "hls", "dash")
STILL_FORMATS = ("image2", "ico", "fits")  # besides those that end in `_pipe`
STREAM_FORMATS = ("mpegts", "mpeg")  # that can be put one after the other
_BIDIRECTIONAL = 3  # AV_PICTURE_TYPE_B


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
            "damaged, or recordings were put one after the other without new times. Copy or download it again, or "
            "re-encode what is left of it."
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
        # What was recorded from the middle begins with frames that lack what they were made from.
        whole = dropwhile(lambda frame: frame.is_corrupt, _decoded(path, container, stream))
        pts = [frame.pts for frame in whole]
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
        n arrays uint8[H, W, 3]; or None if the decoder gives no whole frame at one of the times.

    Raises:
        ValueError: if the stream is damaged, its frames differ in size, or as `display_pixels` does.
    """
    starts = [pts for pts, _ in timeline.keyframes] or timeline.pts[:1].tolist()
    frames = []
    with _open_video(path) as (container, stream):
        display = display_of(path, stream)
        decoded, group = _IntactFrames(path, _decoded(path, container, stream), starts[0]), 0
        for pts in timeline.pts[indices].tolist():
            keyframe = max(bisect_right(starts, pts) - 1, 0)
            if keyframe > group:
                container.seek(timeline.keyframes[keyframe][1], stream=stream)
                decoded = _IntactFrames(path, _decoded(path, container, stream), starts[keyframe])
                group = keyframe
            frame = decoded.read(pts)
            if frame is None or frame.pts != pts or frame.is_corrupt:
                return None
            frames.append(display_pixels(path, frame, display))
            _check_size(path, frames[0], frames[-1], (pts - timeline.pts[0]) * timeline.time_base)
    return frames


class _IntactFrames:
    """The frames of a group of pictures, one after another, as long as none is damaged.

    Args:
        path: for messages.
        decoded: frames from the group's keyframe on; what is shown before it lacks what it was made from.
        start: time of the keyframe.
    """

    def __init__(self, path: Path, decoded: Iterator[Any], start: int):
        self._path, self._decoded, self._start = path, decoded, start
        self._ahead: deque[Any] = deque()

    def read(self, pts: int) -> Any | None:
        """The first frame that is not shown before `pts`, or None at the end of the stream.

        Raises:
            ValueError: if it, or a frame that it may be made from, is damaged.
        """
        frame = self._next()
        while frame is not None and frame.pts is not None and frame.pts < pts:
            frame = self._next()
        # A frame made from a later one is decoded after it: that one has been decoded, too.
        later = frame
        while later is not None and later.pict_type == _BIDIRECTIONAL:
            later = self._decode()
            self._ahead.append(later)
        return frame

    def _next(self) -> Any | None:
        return self._ahead.popleft() if self._ahead else self._decode()

    def _decode(self) -> Any | None:
        frame = next(self._decoded, None)
        if frame is not None and frame.is_corrupt and (frame.pts is None or frame.pts >= self._start):
            raise ValueError(
                f"{self._path}: the frame at {float(frame.time or 0):.3f} s of the file is damaged, and with it those "
                "made from it. Copy or download the file again, or cut that part away."
            )
        return frame


@contextmanager
def _open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """Opens a file: its container and first video stream (an album cover does not count)."""
    import av

    try:
        container = av.open(str(path.absolute()))  # what comes before a colon would be taken for a protocol
    except av.FFmpegError as error:
        raise ValueError(
            f"{path} is not a video that FFmpeg can open ({error.strerror}): it is another kind of file, or it was "
            "cut off while being written. Play it to check, then convert, copy or download it again."
        ) from error
    with container:
        if container.format.name in TEXT_FORMATS:
            raise ValueError(f"{path} is text ({container.format.name}), not a video. Give the video file itself.")
        if container.format.name.endswith("_pipe") or container.format.name in STILL_FORMATS:
            raise ValueError(
                f"{path} is a still picture of a format that is not read ({container.format.name}). Convert it to PNG."
            )
        stream = _main_stream(path, container)
        stream.thread_type = "AUTO"
        yield container, stream


def _main_stream(path: Path, container: Any) -> Any:
    """The video stream that players show; album covers and preview pictures do not count."""
    from av.stream import Disposition

    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not streams:
        kinds = ", ".join(stream.type for stream in container.streams) or "none"
        raise ValueError(f"{path} holds no video stream (its streams: {kinds}). Give a file with pictures.")
    best = container.streams.best("video")
    if best in streams:
        return best
    return max(streams, key=lambda stream: (stream.disposition & Disposition.default, -stream.index))


def _demux(path: Path) -> tuple[list[_PacketTimes], int, float]:
    """Returns the intact packets, how many frames are announced, and the seconds of one time unit."""
    import av

    packets: list[_PacketTimes] = []
    damaged = 0
    with _open_video(path) as (container, stream):
        try:
            for packet in container.demux(stream):
                if packet.pts is None and packet.dts is None and packet.size == 0:
                    continue
                _check_forward(path, container, packets, packet)
                damaged += packet.is_corrupt
                if not packet.is_corrupt:
                    packets.append(_PacketTimes(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
        except av.FFmpegError:
            damaged += 1
        # MP4 indexes every frame; other containers index keyframes, or nothing.
        return packets, max(len(stream.index_entries), len(packets) + damaged), float(stream.time_base)


def _check_forward(path: Path, container: Any, packets: list[_PacketTimes], packet: Any) -> None:
    last = packets[-1].dts if packets else None
    if container.format.name not in STREAM_FORMATS or last is None or packet.dts is None or packet.dts >= last:
        return
    before, after = float(last * packet.time_base), float(packet.dts * packet.time_base)
    raise ValueError(
        f"{path}: its times go back from {before:.3f} s to {after:.3f} s, as where recordings were put one after the "
        "other. Give them one by one, or re-encode them into one MP4."
    )


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


def _check_size(path: Path, first: np.ndarray, frame: np.ndarray, second: float) -> None:
    if frame.shape != first.shape:
        raise ValueError(
            f"{path}: the frame size changes from {first.shape[1]}x{first.shape[0]} to "
            f"{frame.shape[1]}x{frame.shape[0]} (width x height) at {second:.3f} s. Split it there, or re-encode it."
        )
