"""Views of a box that was found in a posed clip: its coloured points with the box (GLB), and frames with it drawn in.

A GLB is glTF 2.0 in one file, which viewers and modelling programs open. Points are thinned to one a voxel, the mean
of those in it. glTF has y up, so the world, which has z up, is turned as a whole; the numbers in the file are the
world's.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from vega3d.files import whole_file
from vega3d.geometry import CORNERS, Array, Box, box_contains, box_corners, project, unproject

if TYPE_CHECKING:  # they import torch, which refusals do without
    from vega3d.processing.clip_geometry_vega3d import ClipGeometry
    from vega3d.processing.video_vega3d import VideoClip

MARK = "vega3d ground"  # stands in both files, by which those of an earlier run are known
VOXEL = 0.02  # edge of a voxel [m]
MOST_CELLS = 2.0**62  # that 64 bits number
GREEN, AMBER = (0, 230, 118), (255, 171, 0)  # of the box, and of the next best one
EDGES = np.argwhere(np.triu((CORNERS[:, None] != CORNERS).sum(-1) == 1))  # int[12, 2], of `box_corners`
NEAR = 0.05  # [m] before the camera, from which on edges are drawn
SHOWN, COLUMNS, WIDTH = 4, 2, 480  # frames of a picture, in a row, and the least width of each [px]
STRIDE = 4  # of the pixels by which the frames that show a box are found
MARGIN = 0.02  # [m] by which the box is grown for it: surfaces lie on its faces
Z_UP = [-(0.5**0.5), 0.0, 0.0, 0.5**0.5]  # quaternion of the turn that brings z to glTF's y
GLTF_FLOAT, GLTF_POINTS, GLTF_LINES = 5126, 0, 1


def upright(box: Sequence[float]) -> Box:
    """Of six numbers, centre and size [m], or seven, the last the yaw [rad]."""
    return Box(np.array(box[:3]), np.array(box[3:6]), box[6] if len(box) == 7 else 0.0)


# --- Points --------------------------------------------------------------------------------------------------------


def shown_part(geometry: "ClipGeometry") -> tuple[Array, Array]:
    """float[2] each: where the part of a depth image begins that the frames show, and its size [px]."""
    left, top, right, bottom = geometry.shown or (0.0, 0.0, *geometry.depth.shape[:0:-1])
    return np.array([left, top]), np.array([right - left, bottom - top])


def frame_points(clip: "VideoClip", frame: int, stride: int = 1) -> tuple[Array, Array]:
    """Points float64[n, 3] [m] and colours uint8[n, 3] of the pixels of a frame that have depth; n may be 0."""
    from vega3d.processing.clip_geometry_vega3d import has_depth

    geometry = posed(clip)
    rows, columns = np.nonzero(has_depth(geometry.depth[frame])[::stride, ::stride])
    rows, columns = rows * stride, columns * stride
    pixels = np.stack([columns, rows], axis=-1) + 0.5
    start, size = shown_part(geometry)
    places = np.floor((pixels - start) / size * clip.frames.shape[2:0:-1]).astype(int)
    seen = ((places >= 0) & (places < clip.frames.shape[2:0:-1])).all(-1)
    pixels, depth, places = pixels[seen], geometry.depth[frame, rows, columns][seen], places[seen]
    points = unproject(pixels, depth, intrinsics_of(geometry, frame), geometry.world_from_camera[frame])
    return points, clip.frames[frame, places[:, 1], places[:, 0]]


def posed(clip: "VideoClip") -> "ClipGeometry":
    """Depth and cameras of a clip; raises ValueError if it has none."""
    if clip.geometry is None:
        raise ValueError(f"{clip.source} has no depth and poses, so that nothing can be drawn in it.")
    return clip.geometry


def intrinsics_of(geometry: "ClipGeometry", frame: int) -> Array:
    """float[3, 3] of the depth image [px]."""
    return geometry.intrinsics if geometry.intrinsics.ndim == 2 else geometry.intrinsics[frame]


def thinned(points: Array, colours: Array, voxel: float = VOXEL) -> tuple[Array, Array]:
    """The mean point float64[m, 3] and the mean colour float64[m, 3] of each voxel that has points float[n, 3]."""
    if not len(points):
        return np.zeros((0, 3)), np.zeros((0, 3))
    cells = np.floor(points / voxel)
    cells -= cells.min(0)
    if (cells.max(0) + 1).prod() > MOST_CELLS:  # a point is far away: cells without points are not counted
        cells = np.stack([np.unique(column, return_inverse=True)[1] for column in cells.T], axis=1)
    cells = cells.astype(np.int64)
    numbers = np.ravel_multi_index(tuple(cells.T), tuple(cells.max(0) + 1))
    _, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    values = np.concatenate([points, colours], axis=1)
    means = np.stack([np.bincount(places, column) for column in values.T], axis=1) / counts[:, None]
    return means[:, :3], means[:, 3:]


def clip_points(clip: "VideoClip", voxel: float = VOXEL) -> tuple[Array, Array]:
    """Points float64[m, 3] [m] and colours float64[m, 3] (0 to 255) of all frames, each thinned before all are."""
    parts = [thinned(*frame_points(clip, frame), voxel) for frame in range(len(clip))]
    points, colours = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return thinned(points, colours, voxel)


# --- GLB -----------------------------------------------------------------------------------------------------------


def save_box_view(path: Path, clip: "VideoClip", boxes: Mapping[str, Sequence[float]]) -> int:
    """Writes a GLB of the points of a clip and of boxes by their names, as wireframes; returns the number of points.

    The first box is green, others are amber.
    """
    points, colours = clip_points(clip)
    meshes = [("points", GLTF_POINTS, points, linear(colours))] if len(points) else []
    for place, (name, box) in enumerate(boxes.items()):
        ends = box_corners(upright(box))[EDGES].reshape(-1, 3)
        colour = linear(np.array(AMBER if place else GREEN))
        meshes.append((name, GLTF_LINES, ends, np.broadcast_to(colour, ends.shape)))
    with whole_file(path) as partial:
        partial.write_bytes(glb(meshes))
    return len(points)


def linear(colours: Array) -> Array:
    """float[..., 3] in [0, 1]: light of colours 0 to 255 on screen (sRGB), as glTF has it."""
    share = colours / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def glb(meshes: Sequence[tuple[str, int, Array, Array]]) -> bytes:
    """A GLB of meshes: a name, glTF's number of the kind of primitive, points float[n, 3] and colours float[n, 3]."""
    arrays = [values.astype("<f4") for *_, points, colours in meshes for values in (points, colours)]
    offsets = np.cumsum([0, *(array.nbytes for array in arrays)]).tolist()
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": MARK},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [
            {"name": "world", "rotation": Z_UP, "children": list(range(1, len(meshes) + 1))},
            *({"name": name, "mesh": number} for number, (name, *_) in enumerate(meshes)),
        ],
        "materials": [{"extensions": {"KHR_materials_unlit": {}}}],  # as bright as they are, without a lamp
        "meshes": [
            {
                "name": name,
                "primitives": [
                    {"mode": mode, "material": 0, "attributes": {"POSITION": 2 * number, "COLOR_0": 2 * number + 1}}
                ],
            }
            for number, (name, mode, *_) in enumerate(meshes)
        ],
        "accessors": [
            {
                "bufferView": number,
                "componentType": GLTF_FLOAT,
                "type": "VEC3",
                "count": len(array),
                "min": array.min(0).tolist(),
                "max": array.max(0).tolist(),
            }
            for number, array in enumerate(arrays)
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": offset, "byteLength": array.nbytes}
            for offset, array in zip(offsets, arrays, strict=False)
        ],
        "buffers": [{"byteLength": offsets[-1]}],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    content = b"".join(array.tobytes() for array in arrays)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(content), b"BIN\0") + content
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


# --- Pictures ------------------------------------------------------------------------------------------------------


def save_box_picture(path: Path, clip: "VideoClip", box: Sequence[float]) -> list[int]:
    """Writes a JPEG of the frames that show most of a box, with its edges; returns their numbers in the clip."""
    frames = frames_showing(clip, box)
    pictures = [drawn(clip, frame, box) for frame in frames]
    width, height = pictures[0].size
    columns = min(COLUMNS, len(pictures))
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height))
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % columns * width, place // columns * height))
    with whole_file(path) as partial:
        sheet.save(partial, format="jpeg", quality=90, comment=MARK)
    return frames


def frames_showing(clip: "VideoClip", box: Sequence[float]) -> list[int]:
    """The `SHOWN` frames with most points in a box, in order; if none has one, frames taken evenly."""
    counts = [
        int(box_contains(upright(box), frame_points(clip, frame, STRIDE)[0], MARGIN).sum())
        for frame in range(len(clip))
    ]
    best = np.argsort(-np.array(counts), kind="stable")[:SHOWN]
    seen = sorted(frame for frame in best.tolist() if counts[frame])
    return seen or np.unique(np.linspace(0, len(clip) - 1, SHOWN).round().astype(int)).tolist()


def drawn(clip: "VideoClip", frame: int, *boxes: Sequence[float]) -> Image.Image:
    """A frame, enlarged to `WIDTH` if it is smaller, with the edges of boxes before the camera.

    The last box is green and over the others, which are amber.
    """
    geometry, image = posed(clip), Image.fromarray(clip.frames[frame])
    if image.width < WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.BICUBIC)
    pose, intrinsics = geometry.world_from_camera[frame], intrinsics_of(geometry, frame)
    start, size = shown_part(geometry)
    draw = ImageDraw.Draw(image)
    for place, box in enumerate(boxes, start=1):
        for ends in box_corners(upright(box))[EDGES]:
            before = clipped(ends, project(ends, intrinsics, pose)[1])
            if before is not None:
                pixels = (project(before, intrinsics, pose)[0] - start) / size * image.size
                colour = GREEN if place == len(boxes) else AMBER
                draw.line([tuple(pixel) for pixel in pixels.tolist()], fill=colour, width=3)
    return image


def clipped(ends: Array, depth: Array) -> Array | None:
    """float[2, 3]: the part of an edge that is `NEAR` or more before the camera, or None if there is none."""
    if (depth < NEAR).all():
        return None
    behind = depth < NEAR
    if behind.any():
        share = (NEAR - depth[0]) / (depth[1] - depth[0])
        ends = ends.copy()
        ends[behind] = ends[0] + share * (ends[1] - ends[0])
    return ends
