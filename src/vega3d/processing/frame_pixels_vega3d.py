"""What the pixels of a decoded frame mean: cut, stretched, turned, on white and in SDR, as players show them.

HDR (PQ, HLG) is brought to BT.709 with 203 cd/m^2 as white (BT.2408); what is brighter is white.
"""

import re
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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


class Display(NamedTuple):
    """How the stream's frames are shown.

    Attributes:
        stretch: width of a pixel in its height; a frame keeps its height, and its width is stretched.
        crop: left, top, right, bottom [px] that the container cuts away.
    """

    stretch: float = 1.0
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)


def display_of(path: Path, stream: Any) -> Display:
    """Reads how a video stream is shown; raises a ValueError if its pixels are absurdly wide or tall, or cut away."""
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
    return Display(aspect, crop)


def display_pixels(path: Path, frame: Any, display: Display) -> np.ndarray:
    """Returns uint8[H, W, 3] of a decoded frame.

    Raises:
        ValueError: if its transfer function, its rotation or its format cannot be shown.
    """
    import av

    width = max(round(frame.width * display.stretch), 1)
    size: dict = {} if width == frame.width else {"width": width, "height": frame.height, "interpolation": "BICUBIC"}
    trc = int(frame.color_trc)
    if trc in _NOT_SHOWN:
        raise ValueError(
            f"{path}: its frames have a {_NOT_SHOWN[trc]} transfer function, which is not shown. Convert it to BT.709."
        )
    try:
        if trc in (PQ, HLG):
            pixels = _sdr(path, frame.to_ndarray(format="rgb48le", **size), trc, int(frame.color_primaries))
        elif any(component.is_alpha for component in frame.format.components):
            pixels = _on_white(frame.to_ndarray(format="rgba", **size))
        else:
            pixels = frame.to_ndarray(format="rgb24", **size)
    except av.FFmpegError as error:
        raise ValueError(
            f"{path}: its frames ({frame.format.name}) cannot be converted to RGB ({error.strerror}). Re-encode it."
        ) from error
    left, top, right, bottom = display.crop
    columns = slice(round(left * display.stretch), pixels.shape[1] - round(right * display.stretch))
    return _upright(path, frame, pixels[top : pixels.shape[0] - bottom, columns])


def _on_white(pixels: np.ndarray) -> np.ndarray:
    alpha = pixels[..., 3:].astype(np.uint16)
    return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _sdr(path: Path, pixels: np.ndarray, trc: int, primaries: int) -> np.ndarray:
    """Converts uint16[H, W, 3] in PQ or HLG to uint8 in BT.709, for a display of BT.1886."""
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
    """Turns and mirrors uint8[H, W, 3] as the display matrix of the frame says."""
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

    PyAV does not show it, but copies it with a stream: the header that it writes for a copy says it.
    """
    import av

    header = BytesIO()
    try:
        with av.open(header, "w", format="matroska") as copy:
            copy.add_stream_from_template(stream)
            copy.start_encoding()
    except (av.FFmpegError, ValueError):
        return 0, 0, 0, 0
    found = dict(
        re.findall(rb"\x54([\xaa\xbb\xcc\xdd])(?=([\x81-\x84].{4}))", header.getvalue() + bytes(4), re.DOTALL)
    )
    left, top, right, bottom = (_number(found.get(bytes([side]))) for side in (0xCC, 0xBB, 0xDD, 0xAA))
    return left, top, right, bottom


def _number(element: bytes | None) -> int:
    """A number of Matroska: its length in the first byte, then so many bytes."""
    return 0 if element is None else int.from_bytes(element[1 : 1 + element[0] - 0x80], "big")
