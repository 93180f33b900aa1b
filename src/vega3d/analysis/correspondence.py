"""Multi-view correspondence: do the features of one point of the scene agree between views, and only there?

Letters: T views, N tokens of a view, E entries (a voxel that a view sees), P pairs (a voxel that two views see).
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from vega3d.analysis.clips import PosedClip
from vega3d.analysis.settings import VOXEL
from vega3d.analysis.tokens import FrameFit, token_centres, token_points
from vega3d.extras import optional_module
from vega3d.geometry import invert_pose

NEIGHBOURS = (1, 5)
ANGLES = (0.0, 15.0, 30.0, 60.0, 180.0)  # [deg], edges of the bins of the view angle
ALPHA = 0.1  # of the longer side of a frame: how far a predicted place may be off
NOWHERE = -1e9  # [px], for what lies behind a camera
BLOCK = 2**24  # similarities held at a time


class CoVisible(NamedTuple):
    """What a clip's geometry says about its features on one grid; the same for every block and noise level."""

    token: np.ndarray  # int[M], valid tokens, counted through all views
    entry: np.ndarray  # int[M], entry that each of them is part of
    view: np.ndarray  # int[E], in ascending order
    place: np.ndarray  # float[E, 2], mean centre of the entry's tokens [px of the frames]
    query: np.ndarray  # int[2 P], entry of a voxel in one view, every pair in both directions
    target: np.ndarray  # int[2 P], entry of the same voxel in another view; the views of the targets ascend
    # int[2 P], an entry of the target's view with another voxel, drawn at random; -1 if there is none
    other: np.ndarray
    truth: np.ndarray  # float[2 P, 2], where the query's point projects in the target's view [px of the frames]
    angle: np.ndarray  # float[2 P], between the optical axes of the two views [deg]
    threshold: float  # of PCK [px of the frames]
    shape: tuple[int, int, int]  # (T, rows, columns) of the features
    chance: dict[str, float]  # metrics of a random choice


def co_visible(clip: PosedClip, fit: FrameFit, voxel: float = VOXEL, seed: int = 0) -> CoVisible:
    """Which tokens of a clip see a common voxel of the world, of edge `voxel` [m], and which do not.

    The seed draws the entries that do not correspond.

    Raises:
        ValueError: if no two views see a common voxel, or `voxel` is not above 0.
    """
    if not voxel > 0:
        raise ValueError(f"The voxel's edge is {voxel} m, but must be above 0. The paper uses 0.1.")
    points, valid = token_points(clip, fit)
    token = np.flatnonzero(valid)
    tokens = points.reshape(-1, 3)[token]
    view, voxels, entry = token_entries(token // valid.shape[1], tokens, voxel)
    query, target = directed_pairs(view, voxels)
    if not len(query):
        raise ValueError(
            f"{clip.name}: no two of its {len(clip)} views see a common voxel of {voxel} m, nothing to compare. "
            "Take more views (--views), a larger frame (--size), larger voxels (--voxel), or check poses and depth."
        )
    counts = np.bincount(entry)[:, None]
    centres = token_centres(fit)[token % valid.shape[1]]
    point = group_sums(tokens, entry) / counts
    axes = clip.world_from_camera[:, :3, 2]
    cosine = (axes[view[query]] * axes[view[target]]).sum(axis=1)
    seen = CoVisible(
        token,
        entry,
        view,
        group_sums(centres, entry) / counts,
        query,
        target,
        others(view, target, np.random.default_rng(seed)),
        projected(clip, point[query], view[target]),
        np.degrees(np.arccos(np.clip(cosine, -1, 1))),
        ALPHA * max(clip.frames.shape[1:3]),
        (len(clip), *fit.grid),
        {},
    )
    return seen._replace(chance=random_choice(seen))


def token_entries(view: np.ndarray, points: np.ndarray, voxel: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int[E] view, ascending, int[E] voxel, and int[M] entry of each token, whose views and points are given."""
    _, voxels = np.unique(np.floor(points / voxel).astype(np.int64), axis=0, return_inverse=True)
    entries, entry = np.unique(np.stack([view, voxels.ravel()]), axis=1, return_inverse=True)
    return entries[0], entries[1], entry.ravel()


def directed_pairs(view: np.ndarray, voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int[2 P] query and int[2 P] target: entries of one voxel, in order of the target's view."""
    first, second = equal_pairs(voxels)
    query, target = np.concatenate([first, second]), np.concatenate([second, first])
    order = np.argsort(view[target], kind="stable")
    return query[order], target[order]


def group_sums(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """float[G, K]: sums of float[M, K] within groups int[M]."""
    return np.stack([np.bincount(group, column) for column in values.T], axis=1)


def equal_pairs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs i < j with equal values int[E], as two int[P]."""
    order = np.argsort(values, kind="stable")
    _, start, size = np.unique(values[order], return_index=True, return_counts=True)
    place = np.arange(len(values))
    later = np.repeat(start + size, size) - place - 1  # how many of its group follow each
    first = np.repeat(place, later)
    step = np.arange(len(first)) - np.repeat(np.cumsum(later) - later, later)
    return order[first], order[first + 1 + step]


def others(view: np.ndarray, target: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """int[2 P]: for each target an evenly drawn other entry of its view; -1 where it is the only one."""
    counts = np.bincount(view)
    start, count = (np.cumsum(counts) - counts)[view[target]], counts[view[target]]
    shift = 1 + (random.random(len(target)) * (count - 1)).astype(int)
    return np.where(count > 1, start + (target - start + shift) % count, -1)


def projected(clip: PosedClip, points: np.ndarray, view: np.ndarray) -> np.ndarray:
    """float[n, 2]: pixels in the frames where points float[n, 3] lie in their views int[n]; `NOWHERE` behind one."""
    camera_from_world = invert_pose(clip.world_from_camera)[view]
    camera = (camera_from_world[:, :3, :3] @ points[..., None])[..., 0] + camera_from_world[:, :3, 3]
    pixels = camera @ clip.intrinsics.T
    depth = pixels[:, 2:]
    return np.where(depth > 0, pixels[:, :2] / np.where(depth > 0, depth, 1), NOWHERE)


def correspondence(features: torch.Tensor, seen: CoVisible) -> dict[str, float]:
    """Metrics of one clip's features; NaN where nothing can be said.

    Args:
        features: float[T, rows, columns, C].
        seen: `co_visible` of the clip on this grid.

    Returns:
        `cosine`: mean over all pairs of views and all voxels that both see. `chance`: the same of voxels that do not
        correspond. `corrected`: (cosine - chance) / (1 - chance). `retrieval_1`, `retrieval_5`: how often the true
        match is the nearest, or among the five nearest, of all voxels of the other view; ties count against it.
        `pck`: how often the nearest lies within 0.1 of the frame's longer side of the true place; `pck_0_15` and so on
        by the angle between the optical axes [deg]. Names with `centred_`: the clip's mean feature subtracted first.
        `retrieval_1_chance`, `retrieval_5_chance`, `pck_chance`: of a random choice. `pairs`: P.

    Raises:
        ValueError: if the features are on another grid, or not finite.
    """
    if features.ndim != 4 or tuple(features.shape[:3]) != seen.shape:
        raise ValueError(f"Features are {list(features.shape)}, but the clip's grid is {list(seen.shape)}.")
    tokens = features.flatten(0, 2)[torch.from_numpy(seen.token).to(features.device)].float()
    if not torch.isfinite(tokens).all():
        raise ValueError("The features hold NaN or infinite numbers. Load the model in float32 or bfloat16.")
    metrics = {"pairs": float(len(seen.query) // 2), **seen.chance}
    metrics |= compare(pooled(tokens, seen), seen)
    centred = compare(pooled(tokens - tokens.mean(dim=0), seen), seen)
    return metrics | {f"centred_{name}": value for name, value in centred.items()}


def pooled(tokens: torch.Tensor, seen: CoVisible) -> torch.Tensor:
    """float[E, C], unit length: tokens float[M, C] L2-normalised, averaged by voxel and view, and re-normalised."""
    entry = torch.from_numpy(seen.entry).to(tokens.device)
    sums = tokens.new_zeros(len(seen.view), tokens.shape[1])
    return F.normalize(sums.index_add_(0, entry, F.normalize(tokens, dim=-1)), dim=-1)


def compare(entries: torch.Tensor, seen: CoVisible) -> dict[str, float]:
    """`correspondence` of unit features float[E, C], without the choice at random."""
    cosine, other, rank, nearest = matches(entries, seen)
    known = seen.other >= 0
    metrics = {
        "cosine": cosine.mean(dtype=float),
        "chance": np.mean(other[known], dtype=float) if known.any() else np.nan,
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        metrics["corrected"] = (metrics["cosine"] - metrics["chance"]) / np.float64(1 - metrics["chance"])
    metrics |= {f"retrieval_{k}": (rank < k).mean() for k in NEIGHBOURS}
    near = np.linalg.norm(seen.place[nearest] - seen.truth, axis=1) <= seen.threshold
    metrics["pck"] = near.mean()
    for low, high in pairwise(ANGLES):
        chosen = (seen.angle >= low) & (seen.angle < high if high < ANGLES[-1] else seen.angle <= high)
        metrics[f"pck_{low:.0f}_{high:.0f}"] = near[chosen].mean() if chosen.any() else np.nan
    return {name: float(value) for name, value in metrics.items()}


def matches(entries: torch.Tensor, seen: CoVisible) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """float[2 P] cosine of query and target, float[2 P] of query and `other`, int[2 P] rank, int[2 P] nearest entry.

    The rank is that of the target among all entries of its view: 0 is nearest; ties count against it.
    """
    query, target, other = (torch.from_numpy(ids).to(entries.device) for ids in (seen.query, seen.target, seen.other))
    results = []
    for start, count, part in target_views(seen):
        members = entries[start : start + count]
        similarity = entries[query[part]] @ members.T  # float[n, count]
        cosine = similarity.gather(1, target[part, None] - start)
        no_match = similarity.gather(1, (other[part, None] - start).clamp(min=0))
        rank = (similarity >= cosine).sum(dim=1) - 1
        results.append((cosine[:, 0], no_match[:, 0], rank, similarity.argmax(dim=1) + start))
    return tuple(torch.cat(parts).cpu().numpy() for parts in zip(*results, strict=True))  # type: ignore[return-value]


def target_views(seen: CoVisible) -> Iterator[tuple[int, int, slice]]:
    """First entry and number of entries of each view that is a target, and which pairs; many pairs in parts."""
    counts = np.bincount(seen.view)
    starts = np.cumsum(counts) - counts
    view = seen.view[seen.target]
    for number, (start, count) in enumerate(zip(starts, counts, strict=True)):
        first, last = np.searchsorted(view, number), np.searchsorted(view, number, side="right")
        step = max(1, BLOCK // max(count, 1))
        for low in range(first, last, step):
            yield int(start), int(count), slice(low, min(low + step, last))


def random_choice(seen: CoVisible) -> dict[str, float]:
    """How often a random voxel of the other view is right."""
    counts = np.bincount(seen.view)[seen.view[seen.target]]
    metrics = {f"retrieval_{k}_chance": float((np.minimum(k, counts) / counts).mean()) for k in NEIGHBOURS}
    near = np.zeros(len(seen.target))
    kd_tree = optional_module("scipy.spatial").KDTree
    for start, count, part in target_views(seen):
        tree = kd_tree(seen.place[start : start + count])
        near[part] = tree.query_ball_point(seen.truth[part], seen.threshold, return_length=True) / count
    return {**metrics, "pck_chance": float(near.mean())}
