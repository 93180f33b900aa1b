"""Metrics of boxes: accuracy at an overlap, and F1 of a set of boxes against another."""

import numpy as np

from vega3d.extras import optional_module
from vega3d.geometry import box_iou

OVERLAPS = (0.25, 0.5)  # from which on a box counts as found


def first_overlap(chosen: np.ndarray, targets: np.ndarray) -> float:
    """IoU of the first of the chosen boxes float[n, 6] with the target float[1, 6]; 0 if none is chosen."""
    return float(box_iou(chosen[0], targets[0])) if len(chosen) else 0.0


def matched_pairs(boxes: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes float[n, 6] and targets float[K, 6], matched one to one so that their IoUs add up to the most.

    IoUs are rounded to float32 as in Multi3DRefer's code, where an overlap of one half exactly therefore counts.

    Returns:
        int[m] places of boxes, int[m] places of targets, and float32[m] IoUs, m being the smaller of n and K.
    """
    side = max(len(boxes), len(targets))
    overlaps = np.zeros((side, side), np.float32)  # square, as there: among equal matchings the solver takes the same
    overlaps[: len(boxes), : len(targets)] = box_iou(boxes[:, None], targets)
    rows, columns = optional_module("scipy.optimize").linear_sum_assignment(-overlaps)
    real = (rows < len(boxes)) & (columns < len(targets))
    return rows[real], columns[real], overlaps[rows[real], columns[real]]


def set_f1(chosen: np.ndarray, targets: np.ndarray) -> dict[float, float]:
    """F1 at each of `OVERLAPS`, of chosen boxes float[n, 6] and targets float[K, 6]: 2 matches / (n + K).

    Two empty sets have F1 1.
    """
    if not len(chosen) and not len(targets):
        return dict.fromkeys(OVERLAPS, 1.0)
    _, _, overlaps = matched_pairs(chosen, targets)
    return {least: 2 * int((overlaps >= least).sum()) / (len(chosen) + len(targets)) for least in OVERLAPS}
