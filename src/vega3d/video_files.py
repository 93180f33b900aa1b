"""Frames as a video file."""

import platform
from pathlib import Path

import numpy as np

PIXELS = "yuv420p"
X86 = ("x86_64", "amd64")  # names that systems have for it


def write_video(path: Path, frames: np.ndarray, fps: int, keyframes: int | None = None) -> None:
    """uint8[T, H, W, 3], H and W even, as H.264 in MP4: the same frames give the same bytes.

    To that end x264 has one thread, gets frames of its own pixels (others are converted in several threads), and
    leaves out AVX-512, with which its macroblock tree depends on what the memory held before.

    Args:
        keyframes: every how many frames there is one at least, from which decoding can begin; by default x264's 250.
    """
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        options = {"crf": "20", "preset": "medium", "threads": "1"}
        if platform.machine().lower() in X86:
            options["x264-params"] = "asm=SSE4.2"
        if keyframes is not None:
            options["g"] = str(keyframes)
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], PIXELS
        for frame in frames:
            converted = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=PIXELS, threads=1)
            container.mux(stream.encode(converted))
        container.mux(stream.encode())
