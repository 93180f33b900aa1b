"""Scans as ScanNet exports them, the boxes of their objects, and proposals.

A scan is a folder named as it is, such as `scene0011_00`, in `scans/` of the data or in the data itself: posed frames
(`color/`, `depth/`, `pose/`, `intrinsic/`), and `scene0011_00.txt` with the axis alignment. Boxes of objects come from
`objects.json`, else from the scan's own `*_vh_clean_2.ply`, `*.aggregation.json` and
`*_vh_clean_2.0.010000.segs.json`.

Files of boxes cx, cy, cz, w, h, l [m], axis-aligned in the aligned world: JSON `{scan: [box, ...]}`, or `.npz` with
an array float[M, 6] for each scan. Names of scans may begin with that of their source, `scannet/scene0011_00`. In a
file of objects the place of a box is the number of its object, or the boxes have names: `{scan: {"12": box}}`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vega3d.evaluation.scenes.records import checked_boxes
from vega3d.files import check_input, inside, read_json
from vega3d.geometry import transform_points
from vega3d.rooms.archives import read_archive
from vega3d.scannet import EXPORT, axis_alignment

PROPOSAL_FILES = ("proposals.json", "proposals.npz", "scannet_val_pred_box.json")
OBJECT_FILES = ("objects.json", "objects.npz", "scannet_val_gt_box.json")
LARGEST = 1 << 28  # bytes, of boxes
PLY_TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4"}
PLY_TYPES |= {"double": "f8", "int8": "i1", "uint8": "u1", "int32": "i4", "uint32": "u4", "float32": "f4"}
LONGEST_HEADER = 1 << 16  # bytes, of a PLY file

Objects = dict[str, np.ndarray]  # float64[6] by the number of the object


def bare_name(scan: str) -> str:
    """`scene0011_00` of `scannet/scene0011_00`."""
    return scan.rpartition("/")[2]


def scene_of_scan(scan: str) -> str:
    """Scans of one place are one scene: `scene0012_01` is of `scene0012`."""
    return scan.partition("_")[0]


def find_scan(data: Path, scan: str) -> Path | None:
    """The folder of a scan, or None; raises ValueError for a name that leads out of the data."""
    candidates = (inside(data / "scans", scan), inside(data, scan))
    return next((folder for folder in candidates if folder.is_dir()), None)


def find_file(data: Path, names: tuple[str, ...]) -> Path | None:
    """The one of these files that is there, or None; raises ValueError if there are several."""
    found = [data / name for name in names if (data / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{data} has {' and '.join(path.name for path in found)}. Leave one of them there.")
    return found[0] if found else None


def read_boxes(path: Path) -> dict[str, Any]:
    """What a file has for each scan, by its bare name: boxes, or names with boxes, unchecked."""
    remedy = "Give {scan: [[cx, cy, cz, w, h, l], ...]} as JSON, or an .npz with float[M, 6] for each scan."
    if path.suffix == ".npz":
        return {bare_name(name): boxes for name, boxes in read_archive(path, largest=LARGEST, remedy=remedy).items()}
    found: dict[str, Any] = {}
    for name, boxes in read_json(path, remedy).items():
        if bare_name(name) in found:
            raise ValueError(f"{path} has the scan {bare_name(name)} twice. Give each scan once.")
        found[bare_name(name)] = boxes
    return found


def read_proposals(path: Path) -> dict[str, np.ndarray]:
    """float64[M, 6] of each scan, M from 1 up; raises ValueError if a scan has none, or what is no box."""
    proposals = {scan: checked_boxes(boxes, f"{path}, {scan}") for scan, boxes in read_boxes(path).items()}
    empty = [scan for scan, boxes in proposals.items() if not len(boxes)]
    if empty:
        raise ValueError(f"{path} has no box of {', '.join(empty[:5])}. Give one at least, or leave the scan out.")
    return proposals


def read_objects(path: Path) -> dict[str, Objects]:
    """The boxes of each scan's objects; raises ValueError for what is no box."""
    return {scan: numbered(boxes, f"{path}, {scan}") for scan, boxes in read_boxes(path).items()}


def numbered(boxes: Any, place: str) -> Objects:
    names = [str(name) for name in boxes] if isinstance(boxes, Mapping) else None
    array = checked_boxes(list(boxes.values()) if isinstance(boxes, Mapping) else boxes, place)
    return dict(zip(names or map(str, range(len(array))), array, strict=True))


def scan_objects(folder: Path) -> Objects:
    """The boxes of a scan's objects, from its mesh and its segments: the least and greatest of their vertices.

    A vertex belongs to the last object that lists its segment, as in the published preparation.

    Raises:
        ValueError: if a file is missing or damaged, or they do not fit each other.
    """
    stem = f"{folder.name}_vh_clean_2"
    points = transform_points(axis_alignment(folder, needed=True), read_vertices(folder / f"{stem}.ply"))
    segments_file = folder / f"{stem}.0.010000.segs.json"
    segments = np.asarray(read_json(segments_file, EXPORT).get("segIndices"))
    if segments.shape != (len(points),) or segments.dtype.kind not in "iu":
        raise ValueError(f"{segments_file} lacks a segment for each of the mesh's {len(points)} vertices. {EXPORT}")
    owners = np.full(len(points), -1)
    for number, listed in read_groups(folder):
        owners[np.isin(segments, listed)] = number
    found = {}
    for number in np.unique(owners[owners >= 0]):
        low, high = points[owners == number].min(0), points[owners == number].max(0)
        found[str(number)] = np.concatenate([(low + high) / 2, high - low])
    return found


def read_groups(folder: Path) -> list[tuple[int, list[int]]]:
    """Each object's number and segments, from the scan's aggregation."""
    names = (f"{folder.name}.aggregation.json", f"{folder.name}_vh_clean.aggregation.json")
    path = next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
    groups = read_json(path, EXPORT).get("segGroups")
    try:
        return [(int(group["objectId"]), [int(segment) for segment in group["segments"]]) for group in groups or []]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has no objects with `objectId` and `segments`: {error!r}. {EXPORT}") from error


def read_vertices(path: Path) -> np.ndarray:
    """float64[n, 3], the vertices of a binary PLY file, as ScanNet writes them; raises ValueError for another file."""
    data = check_input(path).read_bytes()
    header, end, body = data[:LONGEST_HEADER].partition(b"end_header\n")
    body = data[len(header) + len(end) :]
    lines = [line.split() for line in header.decode("ascii", "replace").splitlines()]
    start = next((place for place, words in enumerate(lines) if words[:2] == ["element", "vertex"]), None)
    if not end or ["format", "binary_little_endian", "1.0"] not in lines or start is None:
        raise ValueError(f"{path} is no binary PLY file with vertices. {EXPORT}")
    if any(words[:1] == ["element"] for words in lines[:start]):
        raise ValueError(f"{path} has other elements before its vertices, which are not read. {EXPORT}")
    columns = []
    for words in lines[start + 1 :]:
        if words[:1] != ["property"]:
            break
        columns.append((words[-1], f"<{PLY_TYPES.get(words[1], '')}"))
    try:
        count = int(lines[start][2])
        vertices = np.frombuffer(body, np.dtype(columns), count)
        return np.stack([vertices[axis] for axis in "xyz"], axis=1).astype(float)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{path} has vertices that cannot be read: {error}. {EXPORT}") from error
