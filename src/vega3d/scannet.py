"""What a scan of ScanNet says of its world, for all who read its frames or its boxes."""

from pathlib import Path

import numpy as np

from vega3d.files import check_input

ALIGNMENT = "axisAlignment"
EXPORT = "Export the scan again."
RIGID = 1e-2  # largest deviation of R^T R from the identity that rounding in text files leaves


def axis_alignment(folder: Path, needed: bool = False) -> np.ndarray:
    """float64[4, 4], aligned world from the scan's own: `world_from_camera = axis_alignment(scan) @ pose`.

    It is the identity where the scan's text file names none, as those of ScanNet's test split.

    Args:
        folder: of the scan, such as `scene0011_00`.
        needed: whether the text file must be there, since boxes in the aligned world are compared; else the identity
            stands in for it.

    Raises:
        ValueError: if the file is missing but needed, is no text, or its matrix is not rigid.
    """
    path = folder / f"{folder.resolve().name}.txt"
    if not needed and not path.exists():
        return np.eye(4)
    try:
        lines = check_input(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path}, with the axis alignment of the scan, cannot be read: {error} {EXPORT}") from error
    given = [line.partition("=")[2].split() for line in lines if line.partition("=")[0].strip() == ALIGNMENT]
    if not given:
        return np.eye(4)
    try:
        matrix = np.array(given[0], float).reshape(4, 4)
    except ValueError as error:
        words = " ".join(given[0])
        raise ValueError(f"{path}: the {ALIGNMENT} {words!r} has no 16 numbers. {EXPORT}") from error
    if not np.isfinite(matrix).all():
        raise ValueError(f"{path}: the {ALIGNMENT} {matrix.tolist()} is NaN or infinite. {EXPORT}")
    rotation = matrix[:3, :3]
    if np.abs(rotation.T @ rotation - np.eye(3)).max() > RIGID or np.linalg.det(rotation) < 0:
        raise ValueError(f"{path}: the {ALIGNMENT} {matrix.tolist()} is not rigid. {EXPORT}")
    return matrix
