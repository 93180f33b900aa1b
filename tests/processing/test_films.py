"""Films as players show them: main stream, square pixels, crop, SDR, whole frames, and joined recordings."""

from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
import pytest
from PIL import Image

from processing.video_files import frame_number, numbered_frame, write_video
from vega3d.processing.video_decoding_vega3d import _matroska_crop, decode_frames, read_timeline
from vega3d.processing.video_vega3d import read_video

Disposition = av.stream.Disposition


def write_streams(path: Path, *streams: tuple[str, int, Disposition]) -> Path:
    """Writes 5 frames of each stream, (codec, width, disposition), 48 px high."""
    with av.open(str(path), "w") as container:
        added = []
        for codec, width, disposition in streams:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.disposition = width, 48, disposition.value
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            added.append(stream)
        for number in range(6):
            for stream in added:
                frame = av.VideoFrame.from_ndarray(numbered_frame(number, 48, stream.width), format="rgb24")
                container.mux(stream.encode(frame if number < 5 else None))
    return path


def write_frames(path: Path, frames: list[av.VideoFrame], codec: str = "ffv1", colours: tuple | None = None) -> Path:
    """Writes frames as they are, with (primaries, transfer function, matrix) of H.273 if given."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        if colours:
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace = colours
            context.color_range = 1
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


# The stream


@pytest.mark.parametrize(
    ("name", "streams", "width"),
    [
        ("a.mkv", [("libx264", 32, Disposition(0)), ("libx264", 64, Disposition.default)], 64),
        ("a.mkv", [("libx264", 32, Disposition.default), ("libx264", 64, Disposition(0))], 32),
        ("a.mp4", [("mjpeg", 32, Disposition.attached_pic), ("libx264", 64, Disposition(0))], 64),
        ("a.mp4", [("libx264", 64, Disposition.default), ("mjpeg", 32, Disposition.attached_pic)], 64),
    ],
    ids=["second", "first", "cover first", "cover last"],
)
def test_the_main_stream_is_read(tmp_path, name, streams, width):
    assert read_video(write_streams(tmp_path / name, *streams)).frames.shape == (5, 48, width, 3)


# The shape


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(("aspect", "width"), [("2/1", 128), ("1/2", 32), ("8/9", 57), ("1/1", 64)])
def test_pixels_become_square(tmp_path, suffix, aspect, width):
    path = write_video(tmp_path / f"a.{suffix}", 3, aspect=Fraction(aspect))

    clip = read_video(path)

    assert clip.frames.shape == (3, 48, width, 3)
    assert [frame_number(frame) for frame in clip.frames] == [0, 1, 2]


def test_pixels_become_square_before_they_are_turned(tmp_path):
    path = write_video(tmp_path / "a.mp4", 3, aspect=Fraction(2), rotation=90)

    assert read_video(path).frames.shape == (3, 128, 48, 3)


def test_absurd_pixels_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"20 times as wide as tall.*at most 16 times"):
        read_video(write_video(tmp_path / "a.mp4", 3, aspect=Fraction(20)))


def cropped(path: Path, crop: tuple[int, int], offset: tuple[int, int]) -> Path:
    """Adds a clean aperture, (width, height) and offset of its centre, to an MP4 film of one H.264 stream."""
    data = path.read_bytes()
    numbers = [value for side in (*crop, *offset) for value in (side, 1)]
    box = b"".join(number.to_bytes(4, "big", signed=True) for number in numbers)
    box = (len(box) + 8).to_bytes(4, "big") + b"clap" + box
    starts = [data.index(name) - 4 for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")]
    starts.append(data.index(b"avc1", starts[-1]) - 4)
    lengths = {start: int.from_bytes(data[start : start + 4], "big") for start in starts}
    end = starts[-1] + lengths[starts[-1]]
    data = bytearray(data)
    for start, length in lengths.items():
        data[start : start + 4] = (length + len(box)).to_bytes(4, "big")
    data[end:end] = box
    path.write_bytes(data)
    return path


def copied(source: Path, path: Path) -> Path:
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_what_the_container_cuts_away_is_not_shown(tmp_path, suffix):
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[8:40, 20:60] = 200
    path = cropped(write_video(tmp_path / "a.mp4", [frame] * 3), crop=(40, 32), offset=(8, 0))

    frames = read_video(path if suffix == "mp4" else copied(path, tmp_path / "a.mkv")).frames

    assert frames.shape == (3, 32, 40, 3)
    assert frames[:, 2:-2, 2:-2].min() > 180


def test_bytes_within_other_elements_are_no_crop(tmp_path):
    """The random id of a segment can hold the bytes of a crop: now and then a film would be cut or refused."""
    with av.open(str(write_video(tmp_path / "a.mp4", 3))) as film, av.open(str(tmp_path / "b.mkv"), "w") as copy:
        copy.add_stream_from_template(film.streams.video[0])
        copy.start_encoding()
    header = (tmp_path / "b.mkv").read_bytes()
    random = header.index(b"\x73\xa4\x90") + 3
    crop = b"".join(b"\x54" + side + b"\x81\x07" for side in (b"\xcc", b"\xbb", b"\xdd", b"\xaa"))

    assert len(crop) == 16 and _matroska_crop(header[:random] + crop + header[random + 16 :]) == (0, 0, 0, 0)


# Colours


def bars() -> np.ndarray:
    """uint8[48, 128, 3] in BT.709."""
    colours = [(190, 190, 190), (14, 222, 14), (180, 16, 16), (16, 16, 180), (235, 235, 235), (16, 16, 16)]
    return np.tile(np.repeat(np.array([*colours, (104, 104, 104), (190, 190, 20)], np.uint8), 16, 0), (48, 1, 1))


TO_BT2020 = np.array([[0.627404, 0.329283, 0.043313], [0.069097, 0.919540, 0.011362], [0.016391, 0.088013, 0.895595]])


def graded(light: np.ndarray) -> np.ndarray:
    """PQ signal of light in cd/m^2 (SMPTE ST 2084)."""
    power = (light / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def ten_bits(signal: np.ndarray) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.round(signal * 65535).astype(np.uint16), format="rgb48le")
    return in_matrix(frame, "yuv420p10le", "bt2020", "limited")


def in_matrix(frame: av.VideoFrame, pixel_format: str, matrix: str, colour_range: str) -> av.VideoFrame:
    """The frame in YUV of a matrix and range, in the words of FFmpeg's filter `scale`."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 10))
    scale = graph.add("scale", f"out_color_matrix={matrix}:out_range={colour_range}")
    graph.link_nodes(source, scale, graph.add("format", pixel_format), graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()


def test_pq_becomes_sdr(tmp_path):
    frame = ten_bits(graded((bars() / 255) ** 2.4 @ TO_BT2020.T * 203))
    path = write_frames(tmp_path / "pq.mkv", [frame] * 2, colours=(9, 16, 9))

    shown = read_video(path).frames[0]

    centres = np.abs(shown[24, 8::16].astype(int) - bars()[24, 8::16])
    # In 10 bits the little red of the green bar is a difference of large numbers.
    assert centres.max() <= 16 and centres.mean() < 1.5


@pytest.mark.parametrize(("signal", "grey"), [(0.0, 0), (0.25, 72), (0.5, 143), (0.75, 255), (1.0, 255)])
def test_hlg_becomes_sdr(tmp_path, signal, grey):
    frame = ten_bits(np.full((48, 64, 3), signal))
    path = write_frames(tmp_path / "hlg.mkv", [frame] * 2, colours=(9, 18, 9))

    assert np.abs(read_video(path).frames.astype(int) - grey).max() <= 2


def test_a_transfer_function_that_is_not_shown_is_named(tmp_path):
    frame = av.VideoFrame.from_ndarray(bars(), format="rgb24").reformat(format="yuv420p")
    path = write_frames(tmp_path / "linear.mkv", [frame] * 2, colours=(1, 8, 1))

    with pytest.raises(ValueError, match=r"linear\.mkv: its frames have a linear transfer function"):
        read_video(path)


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("colour_range", ["limited", "full"])
def test_matrix_and_range_are_those_of_the_film(tmp_path, matrix, colour_range):
    frame = in_matrix(av.VideoFrame.from_ndarray(bars(), format="rgb24"), "yuv444p", matrix, colour_range)
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 48, "yuv444p"
        stream.codec_context.colorspace = {"bt601": 6, "bt709": 1, "bt2020": 9}[matrix]
        stream.codec_context.color_range = {"limited": 1, "full": 2}[colour_range]
        for picture in (frame, None):
            container.mux(stream.encode(picture))

    assert np.abs(read_video(path).frames[0].astype(int) - bars()).max() <= 3


@pytest.mark.parametrize(("codec", "pixel_format"), [("png", "rgba"), ("qtrle", "argb")])
def test_what_is_transparent_in_a_film_is_white(tmp_path, codec, pixel_format):
    pixels = np.zeros((48, 64, 4), np.uint8)
    pixels[10:30, 10:30, 3] = 255
    frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=pixel_format)

    shown = read_video(write_frames(tmp_path / "a.mov", [frame] * 2, codec)).frames[0]

    assert shown[0, 0].tolist() == [255, 255, 255]
    assert shown[20, 20].tolist() == [0, 0, 0]


def test_frames_with_exif_are_read(tmp_path):
    """A camera's motion JPEG; its orientation is applied, too."""
    exif = Image.Exif()
    exif[271], exif[0x0112] = "Camera", 6
    with open(tmp_path / "a.mjpeg", "wb") as file:
        for number in range(5):
            Image.fromarray(numbered_frame(number)).save(file, "JPEG", exif=exif)
    with av.open(str(tmp_path / "a.mjpeg"), format="mjpeg") as old, av.open(str(tmp_path / "a.mov"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if packet.size:
                packet.stream, packet.time_base = stream, Fraction(1, 10000)
                packet.pts = packet.dts = 1000 * number
                new.mux(packet)

    clip = read_video(tmp_path / "a.mov")

    assert clip.frames.shape == (5, 64, 48, 3)
    assert [frame_number(frame) for frame in clip.frames] == list(range(5))
    assert clip.seconds.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


# Damage


def noisy_film(path: Path, **options: str) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)
    return write_video(path, list(noise), options={"g": "10", "sc_threshold": "0", **options})


def packets(path: Path) -> list[tuple[int, int, int]]:
    """Number of the frame, place and size [bytes] of each packet, in the order of decoding."""
    with av.open(str(path)) as container:
        found = [(packet.pts, packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    shown = sorted(pts for pts, _, _ in found)
    return [(shown.index(pts), place, size) for pts, place, size in found]


def damage(path: Path, number: int) -> None:
    data = bytearray(path.read_bytes())
    [(place, size)] = [(place, size) for shown, place, size in packets(path) if shown == number]
    data[place + size // 2 : place + size] = bytes(size - size // 2)
    path.write_bytes(data)


def decoder_tells(path: Path) -> bool:
    with av.open(str(path)) as container:
        return any(frame.is_corrupt for frame in container.decode(video=0))


def test_a_damaged_frame_is_not_used(tmp_path):
    path = noisy_film(tmp_path / "a.mp4", bf="0")
    damage(path, 10)
    assert decoder_tells(path)

    with pytest.raises(ValueError, match=r"the frame at 1\.000 s of the file is damaged"):
        read_video(path, num_frames=99)


def test_a_frame_made_from_a_damaged_one_is_not_used(tmp_path):
    path = noisy_film(tmp_path / "a.mp4", bf="0")
    damage(path, 10)

    with pytest.raises(ValueError, match=r"the frame at 1\.000 s of the file is damaged, and with it"):
        read_video(path, num_frames=2)
    assert len(read_video(path, num_frames=1)) == 1


def test_a_frame_made_from_a_damaged_later_one_is_not_used(tmp_path):
    path = noisy_film(tmp_path / "a.mp4", bf="2", b_strategy="0")
    order = [number for number, _, _ in packets(path)]
    later = order[1]  # shown after those that are decoded next
    assert later > order[2] > 0
    damage(path, later)
    assert decoder_tells(path)
    timeline = read_timeline(path)

    with pytest.raises(ValueError, match="is damaged, and with it those made from it"):
        decode_frames(path, timeline, np.array([order[2]]))
    assert len(decode_frames(path, timeline, np.array([0]))) == 1


def test_recordings_put_one_after_the_other_are_told_so(tmp_path):
    data = write_video(tmp_path / "a.ts", 20, options={"g": "10"}).read_bytes()
    (tmp_path / "two.ts").write_bytes(data + data)

    with pytest.raises(
        ValueError, match=r"two\.ts: its times go back from .* recordings were put one after the other"
    ):
        read_video(tmp_path / "two.ts")


def test_a_name_with_a_colon_is_no_protocol(tmp_path, monkeypatch):
    write_video(tmp_path / "file:day\n1 é.mp4", 3)
    monkeypatch.chdir(tmp_path)

    assert len(read_video("file:day\n1 é.mp4")) == 3
