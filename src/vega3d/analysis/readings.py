"""What a probe reads from the features of a clip: targets from its geometry, and the errors of predictions.

Letters: T views, N tokens of a view, M samples, K numbers that a reading predicts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from vega3d.analysis.clips import PosedClip
from vega3d.analysis.tokens import LEAST_DEPTH, FrameFit, camera_points, token_means, token_of_pixels, token_points
from vega3d.geometry import invert_pose, transform_points

EDGE = 0.05  # relative jump of depth between neighbours beyond which no surface is there
LEAST_PREDICTION = 0.01  # [m]; depth below it is no depth, and counts as this in ratios
MOST_PAIRS = 64  # of views of a clip whose relative pose is predicted, taken evenly of all
LEAST_BASELINE = 0.05  # [m] between two views; below it the direction of the translation counts for nothing
AUC_LIMIT = 30  # [deg]

Metrics = dict[str, float]


class Samples(NamedTuple):
    """What a reading predicts of one clip, and from which of its views."""

    values: np.ndarray  # float[M, K]
    view: np.ndarray  # int[M]
    other: np.ndarray | None = None  # int[M]: the earlier view of a pair, or the sighting (`Targets.sightings`)


class Targets(NamedTuple):
    """All that probes predict of a clip."""

    values: np.ndarray  # float[T, N, 7] of tokens: depth [m], unit normal towards the camera, point [m]
    valid: np.ndarray  # bool[T, N]
    samples: dict[str, Samples]  # of the readings of views, pairs and objects
    labels: np.ndarray | None  # int[T, N]: object that covers most of the token, 0 for none; None without ids
    sightings: np.ndarray  # int[S, 2]: view and object that it shows, the features of which permanence needs

    @property
    def nbytes(self) -> int:
        arrays = [self.values, self.valid, self.sightings, *(part.values for part in self.samples.values())]
        return sum(array.nbytes for array in arrays) + (0 if self.labels is None else self.labels.nbytes)


# --- Tokens: depth, normals, points ----------------------------------------------------------------------------------


def token_targets(clip: PosedClip, fit: FrameFit) -> tuple[np.ndarray, np.ndarray]:
    """float[T, N, 7] and bool[T, N]: means over each token's depth pixels, as in `Targets`.

    Normals are in the camera's axes, points in those of the first camera. Valid is where a tenth of the pixels has
    depth, and a tenth has a normal.
    """
    count = fit.grid[0] * fit.grid[1]
    token = token_of_pixels(clip, fit)
    depth = clip.depth.reshape(len(clip), -1, 1).astype(float)
    depth_means, depth_share = token_means(depth, depth[..., 0] > 0, token, count)
    normals, known = pixel_normals(clip)
    sums, normal_share = token_means(normals, known, token, count)
    lengths = np.linalg.norm(sums, axis=-1, keepdims=True)
    valid = (depth_share >= LEAST_DEPTH) & (normal_share >= LEAST_DEPTH) & (lengths[..., 0] > 0)
    points = transform_points(invert_pose(clip.world_from_camera[0]), token_points(clip, fit)[0])
    return np.concatenate([depth_means, sums / np.where(lengths > 0, lengths, 1), points], axis=-1), valid


def pixel_normals(clip: PosedClip) -> tuple[np.ndarray, np.ndarray]:
    """float[T, h * w, 3]: unit normals in the camera's axes, towards the camera; and bool[T, h * w], which are known.

    By central differences of the points of neighbouring pixels: not at the border, in holes and across edges of depth.
    """
    count, height, width = clip.depth.shape
    points = camera_points(clip).reshape(count, height, width, 3)
    along_x, along_y = np.zeros_like(points), np.zeros_like(points)
    along_x[:, :, 1:-1] = points[:, :, 2:] - points[:, :, :-2]
    along_y[:, 1:-1] = points[:, 2:] - points[:, :-2]
    known = np.zeros(clip.depth.shape, bool)
    known[:, 1:-1, 1:-1] = True
    for neighbour in (np.roll(clip.depth, shift, axis) for shift in (1, -1) for axis in (1, 2)):
        known &= (neighbour > 0) & (np.abs(neighbour - clip.depth) <= EDGE * clip.depth)
    normals = np.cross(along_y, along_x)  # x to the right, y down, z ahead: this one points to the camera
    lengths = np.linalg.norm(normals, axis=-1)
    known &= (clip.depth > 0) & (lengths > 0)
    normals /= np.where(lengths > 0, lengths, 1)[..., None]
    return normals.reshape(count, -1, 3), known.reshape(count, -1)


# --- Views and pairs of views: motion of the camera ------------------------------------------------------------------


def heading(poses: np.ndarray) -> np.ndarray:
    """float[...]: angle of the optical axis about the vertical of the reference camera, right is positive [rad].

    `poses` float[..., 4, 4] are cameras in the axes of a reference camera: x to the right, y down, z ahead.
    """
    return np.arctan2(poses[..., 0, 2], poses[..., 2, 2])


def since_first(poses: np.ndarray) -> np.ndarray:
    """float[T, 4, 4]: each camera in the axes of the first."""
    return invert_pose(poses[0]) @ poses


def since_previous(poses: np.ndarray) -> np.ndarray:
    """float[T - 1, 4, 4]: each camera but the first in the axes of the one before."""
    return invert_pose(poses[:-1]) @ poses[1:]


def pair_samples(values: np.ndarray) -> Samples:
    """Samples of each view but the first with the view before."""
    view = np.arange(1, len(values) + 1)
    return Samples(values, view, view - 1)


def turn_samples(poses: np.ndarray) -> Samples:
    return pair_samples(np.degrees(heading(since_previous(poses)))[:, None])


def turn_first_samples(poses: np.ndarray) -> Samples:
    angle = heading(since_first(poses))
    return Samples(np.stack([np.cos(angle), np.sin(angle)], axis=1), np.arange(len(poses)))


def translation_samples(poses: np.ndarray) -> Samples:
    return pair_samples(since_previous(poses)[:, :3, 3])


def translation_first_samples(poses: np.ndarray) -> Samples:
    return Samples(since_first(poses)[:, :3, 3], np.arange(len(poses)))


def pose_samples(poses: np.ndarray) -> Samples:
    """Rotation (9 numbers) and direction (3) from the earlier to the later view, of at most `MOST_PAIRS` pairs.

    Pairs are taken evenly of all i < j in the order of i, then j. The direction is (0, 0, 0) where the two views are
    less than `LEAST_BASELINE` apart.
    """
    earlier, later = np.triu_indices(len(poses), 1)
    chosen = np.linspace(0, len(earlier) - 1, min(MOST_PAIRS, len(earlier))).round().astype(int)
    earlier, later = earlier[chosen], later[chosen]
    relative = invert_pose(poses[earlier]) @ poses[later]
    distance = np.linalg.norm(relative[:, :3, 3], axis=1, keepdims=True)
    direction = np.where(distance < LEAST_BASELINE, 0, relative[:, :3, 3] / np.maximum(distance, LEAST_BASELINE))
    return Samples(np.concatenate([relative[:, :3, :3].reshape(-1, 9), direction], axis=1), later, earlier)


# --- Objects ---------------------------------------------------------------------------------------------------------


def token_labels(clip: PosedClip, fit: FrameFit) -> tuple[np.ndarray, np.ndarray]:
    """int[T, N]: the object that covers most of each token's pixels, 0 for none of them.

    And bool[T, I + 1]: whether any pixel of a token shows object i; I is the largest id.
    """
    assert clip.instances is not None
    views, count = len(clip), fit.grid[0] * fit.grid[1]
    token, ids = token_of_pixels(clip, fit), clip.instances.reshape(views, -1).astype(np.int64)
    seen, most = token >= 0, int(ids.max()) + 1
    place = (np.arange(views)[:, None] * count + token)[:, seen] * most + ids[:, seen]
    pixels = np.bincount(place.ravel(), minlength=views * count * most).reshape(views, count, most)
    return pixels.argmax(axis=-1), pixels.max(axis=1) > 0


def object_places(clip: PosedClip) -> np.ndarray:
    """float[I + 1, 3]: mean of the points of each object's pixels in all views, world [m]; NaN if never seen."""
    assert clip.instances is not None
    points = camera_points(clip)
    rotation, position = clip.world_from_camera[:, :3, :3], clip.world_from_camera[:, :3, 3]
    world = (points @ np.swapaxes(rotation, 1, 2) + position[:, None]).reshape(-1, 3)
    ids, known = clip.instances.ravel().astype(np.int64), clip.depth.ravel() > 0
    number = int(ids.max()) + 1
    sums = np.stack([np.bincount(ids[known], axis[known], minlength=number) for axis in world.T], axis=1)
    counts = np.bincount(ids[known], minlength=number)[:, None]
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def permanence_samples(clip: PosedClip, labels: np.ndarray, shown: np.ndarray) -> tuple[Samples, np.ndarray]:
    """Where objects seen earlier lie in the axes of a camera that sees none of their pixels [m]; and the sightings.

    An object is seen in a view where it covers most of a token. `labels` and `shown` are those of `token_labels`.
    """
    places, number = object_places(clip), shown.shape[1]
    has_token = np.zeros_like(shown)
    has_token[np.arange(len(clip))[:, None], labels] = True
    rows, sightings = [], dict[tuple[int, int], int]()
    for view in range(1, len(clip)):
        for item in range(1, number):
            before = np.flatnonzero(has_token[:view, item])
            if not shown[view, item] and len(before) and np.isfinite(places[item]).all():
                sighting = sightings.setdefault((int(before[-1]), item), len(sightings))
                rows.append(
                    (view, sighting, *transform_points(invert_pose(clip.world_from_camera[view]), places[item]))
                )
    table = np.array(rows, float).reshape(-1, 5)
    samples = Samples(table[:, 2:], table[:, 0].astype(int), table[:, 1].astype(int))
    return samples, np.array([*sightings], int).reshape(-1, 2)


# --- Errors of predictions float[M, K] -------------------------------------------------------------------------------


def depth_metrics(predicted: np.ndarray, true: np.ndarray) -> Metrics:
    """RMSE [m]; mean of |p - t| / t; share with max(p / t, t / p) < 1.25 (Eigen et al. 2014)."""
    depth, truth = predicted[:, 0], true[:, 0]
    ratio = np.maximum(np.maximum(depth, LEAST_PREDICTION) / truth, truth / np.maximum(depth, LEAST_PREDICTION))
    return {
        "depth_rmse": float(np.sqrt(np.mean((depth - truth) ** 2))),
        "depth_abs_rel": float(np.mean(np.abs(depth - truth) / truth)),
        "depth_delta1": float((ratio < 1.25).mean()),
    }


def normal_metrics(predicted: np.ndarray, true: np.ndarray) -> Metrics:
    """Mean and median angle to the true normal [deg]; shares below 11.25, 22.5, 30 degrees (Fouhey et al. 2013)."""
    angle = angles_between(predicted, true)
    return {
        "normal_mean": float(angle.mean()),
        "normal_median": float(np.median(angle)),
        **{f"normal_{limit:.0f}": float((angle < limit).mean()) for limit in (11.25, 22.5, 30.0)},
    }


def angles_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float[M]: angle between vectors float[M, 3] [deg]; 90 where one has no length."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.degrees(np.arccos(np.clip((first * second).sum(axis=1) / np.maximum(lengths, 1e-12), -1, 1)))


def turn_metrics(predicted: np.ndarray, true: np.ndarray) -> Metrics:
    return {"turn_error": float(np.abs(wrapped(predicted[:, 0] - true[:, 0])).mean())}


def turn_first_metrics(predicted: np.ndarray, true: np.ndarray) -> Metrics:
    angles = [np.degrees(np.arctan2(vectors[:, 1], vectors[:, 0])) for vectors in (predicted, true)]
    return {"turn_first_error": float(np.abs(wrapped(angles[0] - angles[1])).mean())}


def wrapped(degrees: np.ndarray) -> np.ndarray:
    """The same angles in [-180, 180)."""
    return (degrees + 180) % 360 - 180


def distance_metrics(name: str) -> Callable[[np.ndarray, np.ndarray], Metrics]:
    """Mean distance of predicted from true places float[M, 3] [m], as `NAME_error`."""

    def metrics(predicted: np.ndarray, true: np.ndarray) -> Metrics:
        return {f"{name}_error": float(np.linalg.norm(predicted - true, axis=1).mean())}

    return metrics


def point_metrics(predicted: np.ndarray, true: np.ndarray) -> Metrics:
    distance = np.linalg.norm(predicted - true, axis=1)
    return {"points_error": float(distance.mean()), "points_rmse": float(np.sqrt(np.mean(distance**2)))}


def pose_metrics(predicted: np.ndarray, true: np.ndarray) -> Metrics:
    """Mean errors of rotation and direction [deg], and the area under the share of pairs within a limit up to 30.

    The error of a pair is the larger of the two, the direction's up to its sign; the limits are 1, 2, ..., 30 degrees:
    as VGGT (Wang et al. 2025) and PoseDiffusion (Wang et al. 2023) score, and with them the two published studies.
    The predicted nine numbers become the nearest rotation. Pairs without a direction count by rotation alone.
    """
    left, _, right = np.linalg.svd(predicted[:, :9].reshape(-1, 3, 3))
    left[:, :, 2] *= np.linalg.det(left @ right)[:, None]
    relative = np.swapaxes(left @ right, 1, 2) @ true[:, :9].reshape(-1, 3, 3)
    rotation = np.degrees(np.arccos(np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    moved = np.linalg.norm(true[:, 9:], axis=1) > 0
    direction = angles_between(predicted[:, 9:], true[:, 9:])
    direction = np.where(moved, np.minimum(direction, 180 - direction), 0)
    error = np.maximum(rotation, direction)
    return {
        "pose_auc30": float(np.mean([(error < limit).mean() for limit in range(1, AUC_LIMIT + 1)])),
        "pose_rotation_error": float(rotation.mean()),
        "pose_direction_error": float(direction[moved].mean()) if moved.any() else float("nan"),
    }


# --- The best constant of each kind of error -------------------------------------------------------------------------


def median(values: np.ndarray) -> np.ndarray:
    return np.median(values, axis=0)


def mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=0)


def median_direction(values: np.ndarray) -> np.ndarray:
    """Cosine and sine of the whole degree with the least mean angle to directions float[M, 2]."""
    angles = np.degrees(np.arctan2(values[:, 1], values[:, 0]))
    costs = [np.abs(wrapped(angles - degree)).mean() for degree in range(360)]
    best = np.radians(int(np.argmin(costs)))
    return np.array([np.cos(best), np.sin(best)])


# --- All readings ----------------------------------------------------------------------------------------------------


class Reading(NamedTuple):
    """Something that is read from features.

    Its input is a token's own features, those of a view pooled to 3 x 3, those of two views, those of a view with the
    mean of an object's tokens in another, or pairs of tokens.
    """

    input: Literal["token", "view", "pair", "object", "tokens"]
    metrics: Callable[[np.ndarray, np.ndarray], Metrics] | None  # of predicted and true float[M, K]; none of `tokens`
    columns: slice = slice(None)  # of `Targets.values`, for tokens
    samples: Callable[[np.ndarray], Samples] | None = None  # of the poses float[T, 4, 4]; none of tokens and objects
    constant: Callable[[np.ndarray], np.ndarray] = mean  # float[K], the best prediction for float[M, K] without input


READINGS: Mapping[str, Reading] = {
    "depth": Reading("token", depth_metrics, slice(0, 1)),
    "normals": Reading("token", normal_metrics, slice(1, 4)),
    "points": Reading("token", point_metrics, slice(4, 7)),
    "turn": Reading("pair", turn_metrics, samples=turn_samples, constant=median),
    "turn_first": Reading("view", turn_first_metrics, samples=turn_first_samples, constant=median_direction),
    "translation": Reading("pair", distance_metrics("translation"), samples=translation_samples, constant=median),
    "translation_first": Reading(
        "view", distance_metrics("translation_first"), samples=translation_first_samples, constant=median
    ),
    "pose": Reading("pair", pose_metrics, samples=pose_samples),
    "instances": Reading("tokens", None),
    "permanence": Reading("object", distance_metrics("permanence"), constant=median),
}
POOLED = tuple(name for name, reading in READINGS.items() if reading.input in ("view", "pair", "object"))
OF_OBJECTS = ("instances", "permanence")  # need ids of objects
PROBES: Mapping[str, tuple[str, ...]] = {"linear": tuple(READINGS), "attentive": POOLED}  # what each can read


class ProbeOptions(NamedTuple):
    """What probes read, and which kind of probe."""

    readings: tuple[str, ...] = tuple(READINGS)
    probe: str = "linear"  # a name of `PROBES`
    seeds: tuple[int, ...] = (0,)  # of attentive probes; the linear ones have none


def probe_options(
    readings: Sequence[str] = (), probe: str = "linear", seeds: Sequence[int] | None = None
) -> ProbeOptions:
    """Options of probes, by default all that the kind of probe can read, with the seed 0.

    Raises:
        ValueError: for an unknown probe or reading, one given twice, one that this probe cannot read, or seeds that
            are negative, repeated, or of a linear probe.
    """
    if probe not in PROBES:
        raise ValueError(f"There is no probe {probe!r}. Choose of {', '.join(PROBES)}.")
    for name in readings:
        if name not in READINGS:
            raise ValueError(f"There is no reading {name!r}. Choose of {', '.join(READINGS)}.")
        if name not in PROBES[probe]:
            raise ValueError(f"The {probe} probe cannot read {name}, only {', '.join(PROBES[probe])}. Leave it out.")
    if probe == "linear" and seeds is not None:
        raise ValueError("Linear probes are solved in closed form and have no seeds. Leave out the seeds of probes.")
    chosen = (0,) if seeds is None else tuple(seeds)
    if not chosen or min(chosen) < 0:
        raise ValueError(f"The seeds of probes are {list(chosen)}, but must be numbers from 0, such as 0,1,2.")
    for name, values in (("readings", readings), ("seeds of probes", chosen)):
        if len(set(values)) < len(values):
            raise ValueError(f"The {name} {list(values)} name one twice. Give each once.")
    return ProbeOptions(tuple(name for name in PROBES[probe] if name in (readings or PROBES[probe])), probe, chosen)


def clip_targets(clip: PosedClip, fit: FrameFit, readings: Sequence[str]) -> Targets:
    """What probes of these readings predict of a clip; those of objects are left out where it has no ids."""
    values, valid = token_targets(clip, fit)
    samples = {name: make(clip.world_from_camera) for name in readings if (make := READINGS[name].samples)}
    labels, sightings = None, np.empty((0, 2), int)
    if clip.instances is not None and set(readings) & set(OF_OBJECTS):
        labels, shown = token_labels(clip, fit)
        if "permanence" in readings:
            samples["permanence"], sightings = permanence_samples(clip, labels, shown)
    return Targets(values, valid, samples, labels, sightings)
