"""Frames as a video file."""

import platform
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np

PIXELS = "yuv420p"
THREADED = 17  # version of PyAV from which on it converts pixels in several threads
X86 = ("x86_64", "amd64")  # names that systems have for it


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int, keyframes: int | None = None) -> None:
    """Frames uint8[H, W, 3] of one size, H and W even, as H.264 in MP4: the same frames give the same bytes.

    To that end x264 has one thread, gets frames of its own pixels (others are converted in several threads), and
    leaves out AVX-512, with which its macroblock tree depends on what the memory held before.

    Args:
        keyframes: every how many frames there is one at least, from which decoding can begin; by default x264's 250.
    """
    import av

    rest = iter(frames)
    first = next(rest)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        options = {"crf": "20", "preset": "medium", "threads": "1"}
        if platform.machine().lower() in X86:
            options["x264-params"] = "asm=SSE4.2"
        if keyframes is not None:
            options["g"] = str(keyframes)
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = first.shape[1], first.shape[0], PIXELS
        in_one_thread = {"threads": 1} if int(av.__version__.partition(".")[0]) >= THREADED else {}
        for frame in chain([first], rest):
            converted = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=PIXELS, **in_one_thread)
            container.mux(stream.encode(converted))
        container.mux(stream.encode())
