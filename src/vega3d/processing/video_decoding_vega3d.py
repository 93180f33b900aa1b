"""Decodes chosen frames of a video file with PyAV, in bounded memory, and turns them into pixels as players show them.

PyAV is imported where a file is opened: who has frames in memory can do without it.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from itertools import dropwhile, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# What FFmpeg also opens: text drawn as pictures, and lists that name other files or addresses.
TEXT_FORMATS = ("tty", "concat", "hls", "dash")
STILL_FORMATS = ("image2", "ico", "fits")  # besides those that end in `_pipe`
STREAM_FORMATS = ("mpegts", "mpeg")  # that can be put one after the other
_BIDIRECTIONAL = 3  # AV_PICTURE_TYPE_B
# Version of PyAV that has the index of a stream, closes decoders of several threads without a deadlock, and converts
# frames by their own matrix and range.
NEWER = 17
SMALL = 1 << 17  # [px]; threads that convert a smaller frame cost more than they save

# Numbers of transfer functions and primaries in ITU-T H.273.
PQ, HLG = 16, 18
_NOT_SHOWN = {8: "linear", 9: "logarithmic", 10: "logarithmic", 17: "SMPTE ST 428"}
REFERENCE_WHITE = 203.0  # cd/m^2
HLG_PEAK = 1000.0  # cd/m^2
_BT2020_TO_BT709 = (
    (1.660491, -0.587641, -0.072850),
    (-0.124550, 1.132900, -0.008349),
    (-0.018151, -0.100579, 1.118730),
)
_P3_TO_BT709 = ((1.224940, -0.224940, 0.0), (-0.042057, 1.042057, 0.0), (-0.019638, -0.078636, 1.098274))
# HDR without stated primaries has those of BT.2020.
_TO_BT709 = {2: _BT2020_TO_BT709, 9: _BT2020_TO_BT709, 12: _P3_TO_BT709, 1: np.eye(3).tolist()}
_BT2020_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
MOST_STRETCH = 16


class _PacketTimes(NamedTuple):
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
    """The times of the frames as the packets carry them, or None if they do not carry one distinct time each.

    Nothing is decoded: an hour of video takes about a second. Raises ValueError if the file is no video, or holds
    fewer intact frames than it announces.
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
    """The times of the frames as the whole stream gives them when it is decoded.

    Raises ValueError if nothing can be decoded, or the frames do not carry increasing times.
    """
    with _open_video(path) as (container, stream):
        # A recording that begins in the middle begins with frames that lack those they are made from.
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
    """The frames at `indices`, increasing int64[n], decoded as players show them; what lies between is skipped.

    Returns:
        n arrays uint8[H, W, 3]; or None if the decoder gives no whole frame at one of the times.

    Raises:
        ValueError: if the stream is damaged, its frames differ in size, or as `display_pixels` does.
    """
    starts = [pts for pts, _ in timeline.keyframes] or timeline.pts[:1].tolist()
    frames = []
    with _open_video(path) as (container, stream):
        display = read_display(path, stream)
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
            (h, w), (first_h, first_w) = frames[-1].shape[:2], frames[0].shape[:2]
            if (h, w) != (first_h, first_w):
                raise ValueError(
                    f"{path}: the frame size changes from {first_w}x{first_h} to {w}x{h} (width x height) at "
                    f"{(pts - timeline.pts[0]) * timeline.time_base:.3f} s. Split it there, or re-encode it."
                )
    return frames


class _IntactFrames:
    """The frames of a group of pictures, one after another, as long as none is damaged.

    `decoded` are the frames from the group's keyframe on, and `start` is its time. Frames that are shown before it
    lack those that they were made from.
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
        # A frame that is made from a later one is decoded after it, so the later one is decoded and checked too.
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
    """The open container of a file, and its main video stream."""
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
        stream.thread_type = "AUTO" if is_newer() else "SLICE"
        yield container, stream


def is_newer() -> bool:
    import av

    return int(av.__version__.partition(".")[0]) >= NEWER


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
    """The intact packets, the number of frames that the file announces, and the seconds of one time unit."""
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
        announced = _announced(path, container, stream, len(packets) + damaged)
        return packets, max(announced, len(packets) + damaged), float(stream.time_base)


def _announced(path: Path, container: Any, stream: Any, found: int) -> int:
    """How many frames an MP4 says it holds, of those that are shown; fewer for other containers.

    MP4 indexes every frame, others keyframes, or nothing. An older PyAV has the number of frames in the header of an
    MP4 alone, with those that its edit list leaves out, so what is missing is counted with the list ignored.
    """
    import av

    if is_newer():
        return len(stream.index_entries)
    if "mp4" not in container.format.name or stream.frames <= found:
        return found
    with av.open(str(path.absolute()), options={"ignore_editlist": "1"}) as whole:
        try:
            held = sum(packet.size > 0 for packet in whole.demux(whole.streams[stream.index]))
        except av.FFmpegError:
            held = found
    return found + max(stream.frames - held, 0)


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
    """The frames from the current place on."""
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


# --- Pixels ------------------------------------------------------------------------------------------------------
# A frame is shown cut, stretched, turned, on white and in SDR. HDR (PQ, HLG) is brought to BT.709 with 203 cd/m^2 as
# white (BT.2408); what is brighter is white.


class Display(NamedTuple):
    """How the stream's frames are shown.

    Attributes:
        stretch: width of a pixel in its height; a frame keeps its height, and its width is stretched.
        crop: left, top, right, bottom [px] that the container cuts away.
        transfer: number of the transfer function, and `primaries` of the primaries, in ITU-T H.273.
    """

    stretch: float
    crop: tuple[int, int, int, int]
    transfer: int
    primaries: int


def read_display(path: Path, stream: Any) -> Display:
    """How a video stream is shown; raises a ValueError if its pixels are absurdly wide or tall, or cut away."""
    aspect = float(stream.sample_aspect_ratio or 1)
    if not 1 / MOST_STRETCH <= aspect <= MOST_STRETCH:
        raise ValueError(
            f"{path}: its pixels are {aspect:.4g} times as wide as tall ({stream.sample_aspect_ratio}), but at most "
            f"{MOST_STRETCH} times is shown. Re-encode it with square pixels."
        )
    crop = _container_crop(stream)
    if crop[0] + crop[2] >= stream.width or crop[1] + crop[3] >= stream.height:
        raise ValueError(
            f"{path}: its container cuts {crop} px (left, top, right, bottom) away from frames of {stream.width}x"
            f"{stream.height} px, so nothing is left. Re-encode it."
        )
    colours = stream.codec_context  # frames have them since PyAV 17
    return Display(aspect, crop, int(colours.color_trc), int(colours.color_primaries))


def display_pixels(path: Path, frame: Any, display: Display) -> np.ndarray:
    """The pixels uint8[H, W, 3] of a decoded frame, as players show it.

    Raises ValueError if its transfer function, its rotation or its format cannot be shown.
    """
    import av

    width = max(round(frame.width * display.stretch), 1)
    if display.transfer in _NOT_SHOWN:
        name = _NOT_SHOWN[display.transfer]
        raise ValueError(
            f"{path}: its frames have a {name} transfer function, which is not shown. Convert it to BT.709."
        )
    try:
        if display.transfer in (PQ, HLG):
            pixels = _sdr(path, _converted(frame, "rgb48le", width), display.transfer, display.primaries)
        elif any(component.is_alpha for component in frame.format.components):
            pixels = _on_white(_converted(frame, "rgba", width))
        else:
            pixels = _converted(frame, "rgb24", width)
    except av.FFmpegError as error:
        raise ValueError(
            f"{path}: its frames ({frame.format.name}) cannot be converted to RGB ({error.strerror}). Re-encode it."
        ) from error
    left, top, right, bottom = display.crop
    columns = slice(round(left * display.stretch), pixels.shape[1] - round(right * display.stretch))
    return _upright(path, frame, pixels[top : pixels.shape[0] - bottom, columns])


def _converted(frame: Any, pixel_format: str, width: int) -> np.ndarray:
    """The pixels of a frame in RGB, by its own matrix and range, stretched to a width."""
    import av.filter

    if is_newer():
        options: dict = {"threads": 1} if frame.width * frame.height <= SMALL else {}
        if width != frame.width:
            options |= {"width": width, "height": frame.height, "interpolation": "BICUBIC"}
        return frame.to_ndarray(format=pixel_format, **options)
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    scale = graph.add("scale", f"w={width}:h={frame.height}:flags=bicubic:out_range=full")
    graph.link_nodes(source, scale, graph.add("format", pixel_format), graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull().to_ndarray()


def _on_white(pixels: np.ndarray) -> np.ndarray:
    alpha = pixels[..., 3:].astype(np.uint16)
    return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _sdr(path: Path, pixels: np.ndarray, trc: int, primaries: int) -> np.ndarray:
    """uint8[H, W, 3] in BT.709, for a display of BT.1886, of uint16[H, W, 3] in PQ or HLG."""
    if primaries not in _TO_BT709:
        raise ValueError(
            f"{path}: HDR with the primaries {primaries} of H.273 is not shown, only BT.2020, Display P3 and BT.709. "
            "Convert it to BT.709."
        )
    light = _light(trc)[pixels]
    if trc == HLG:
        light *= (light @ _BT2020_LUMINANCE)[..., None] ** np.float32(0.2) * np.float32(HLG_PEAK / REFERENCE_WHITE)
    light = light @ np.array(_TO_BT709[primaries], np.float32).T
    return (np.clip(light, 0, 1) ** np.float32(1 / 2.4) * 255 + 0.5).astype(np.uint8)


@cache
def _light(trc: int) -> np.ndarray:
    """float32[65536]: light of each code value; of PQ relative to white, of HLG of the scene, from 0 to 1."""
    signal = np.arange(65536) / 65535
    if trc == PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = signal ** (1 / m2)
        light = (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1) * 10000 / REFERENCE_WHITE
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return light.astype(np.float32)


def _upright(path: Path, frame: Any, pixels: np.ndarray) -> np.ndarray:
    """The pixels uint8[H, W, 3] turned and mirrored as the display matrix of the frame says."""
    matrix = _display_matrix(frame)
    if matrix is None:
        return np.ascontiguousarray(pixels)
    # x' = a x + c y, y' = b x + d y. `frame.rotation` is not enough: a mirrored frame reads as turned by 180 degrees.
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if bool(a) == bool(b) or bool(a) != bool(d) or bool(b) != bool(c):
        raise ValueError(
            f"{path}: its frames are stored rotated by {frame.rotation} degrees; only multiples of 90 can be shown "
            "without cutting. Re-encode it upright, for example `ffmpeg -i input output.mp4`."
        )
    if a == 0:
        pixels = pixels.transpose(1, 0, 2)
    horizontal, vertical = (a, d) if a else (c, b)
    return np.ascontiguousarray(pixels[:: 1 if vertical > 0 else -1, :: 1 if horizontal > 0 else -1])


def _display_matrix(frame: Any) -> bytes | None:
    try:
        side_data = frame.side_data
    except ValueError:
        # PyAV knows fewer types of side data than FFmpeg, and lists all or none.
        side_data = _without_unknown_side_data(frame).side_data
    matrix = side_data.get("DISPLAYMATRIX")
    return None if matrix is None else bytes(matrix)


def _without_unknown_side_data(frame: Any) -> Any:
    import av.filter
    from av.sidedata.sidedata import Type

    known: Any = Type
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    first = max(one.value for one in known) + 1
    unknown = [graph.add("sidedata", f"mode=delete:type={number}") for number in range(first, first + 32)]
    graph.link_nodes(source, *unknown, graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()


def _container_crop(stream: Any) -> tuple[int, int, int, int]:
    """Left, top, right, bottom [px] that the container cuts away (`clap` of MP4, `PixelCrop` of Matroska).

    PyAV does not expose the crop, but copies it with a stream, so it is read from the header of a copy.
    """
    import av

    header = BytesIO()
    try:
        with av.open(header, "w", format="matroska") as copy:
            copy.add_stream_from_template(stream)
            copy.start_encoding()
    except (av.FFmpegError, ValueError):
        return 0, 0, 0, 0
    return _matroska_crop(header.getvalue())


# Of the elements of Matroska (RFC 9559): those that lead to the video track, and its left, top, right, bottom crop.
_TO_VIDEO = {b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae", b"\xe0"}  # Segment, Tracks, TrackEntry, Video
_CROPS = (b"\x54\xcc", b"\x54\xbb", b"\x54\xdd", b"\x54\xaa")


def _matroska_crop(data: bytes) -> tuple[int, int, int, int]:
    """Left, top, right, bottom crop [px] of the last video track in a header; 0 where it names none."""
    found: dict[bytes, int] = {}

    def walk(at: int, end: int) -> None:
        while at < end:
            id_end = at + _length_of_number(data[at])
            size_end = id_end + _length_of_number(data[id_end])
            marker = 1 << 7 * (size_end - id_end)
            size = int.from_bytes(data[id_end:size_end], "big") - marker
            unknown = size == marker - 1  # the size of what is still being written; its parts go on to the end
            element, content_end = data[at:id_end], end if unknown else min(size_end + size, end)
            if element in _TO_VIDEO:
                walk(size_end, content_end)
            elif element in _CROPS:
                found[element] = int.from_bytes(data[size_end:content_end], "big")
            at = content_end

    walk(0, len(data))
    left, top, right, bottom = (found.get(side, 0) for side in _CROPS)
    return left, top, right, bottom


def _length_of_number(first: int) -> int:
    """Bytes [1..8] of a number of EBML by its first byte, which has as many leading zero bits, less one."""
    return 9 - first.bit_length()
