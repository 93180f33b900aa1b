"""Linear probes of depth and surface normals on frozen features: ridge regression in closed form.

Everything that the regression needs of the training tokens are their second moments, so that any number of clips takes
the memory of one matrix. Letters: M tokens, C channels, K targets (depth, and the normal's x, y, z).
"""

from typing import NamedTuple

import numpy as np
import torch

from vega3d.analysis.clips import PosedClip
from vega3d.analysis.tokens import LEAST_DEPTH, FrameFit, camera_points, token_means, token_of_pixels

STRENGTHS = tuple(10.0**power for power in range(-6, 4))  # of the ridge, relative to a channel's own variance
EDGE = 0.05  # relative jump of depth between neighbours beyond which no surface is there
LEAST_PREDICTION = 0.01  # [m]; depth below it is no depth, and counts as this in ratios
BASIS = 8  # cosine functions along each side of the position baseline
TARGETS = {"depth": slice(0, 1), "normal": slice(1, 4)}


class Targets(NamedTuple):
    """What a probe predicts."""

    values: np.ndarray  # float[T, N, 4]: depth [m], and the unit normal in the camera's axes, towards the camera
    valid: np.ndarray  # bool[T, N]


def token_targets(clip: PosedClip, fit: FrameFit) -> Targets:
    """Means over each token's depth pixels; valid where a tenth of them has depth, and a tenth has a normal."""
    count = fit.grid[0] * fit.grid[1]
    token = token_of_pixels(clip, fit)
    depth = clip.depth.reshape(len(clip), -1, 1).astype(float)
    depth_means, depth_share = token_means(depth, depth[..., 0] > 0, token, count)
    normals, known = pixel_normals(clip)
    sums, normal_share = token_means(normals, known, token, count)
    lengths = np.linalg.norm(sums, axis=-1, keepdims=True)
    valid = (depth_share >= LEAST_DEPTH) & (normal_share >= LEAST_DEPTH) & (lengths[..., 0] > 0)
    return Targets(np.concatenate([depth_means, sums / np.where(lengths > 0, lengths, 1)], axis=-1), valid)


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


class Moments:
    """Second moments of features with a constant 1 behind them, and of the targets.

    Attributes:
        gram: float64[C + 1, C + 1]; its last entry is the number of tokens.
        cross: float64[C + 1, K].
        square: float64[K].
    """

    def __init__(self, channels: int, device: torch.device | str = "cpu", targets: int = 4):
        self.gram = torch.zeros(channels + 1, channels + 1, dtype=torch.float64, device=device)
        self.cross = torch.zeros(channels + 1, targets, dtype=torch.float64, device=device)
        self.square = torch.zeros(targets, dtype=torch.float64, device=device)

    def add(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        """float[M, C] and float[M, K]."""
        ones = torch.ones(len(features), 1, dtype=torch.float64, device=self.gram.device)
        extended = torch.cat([features.to(ones), ones], dim=1)
        targets = targets.to(ones)
        self.gram += extended.T @ extended
        self.cross += extended.T @ targets
        self.square += targets.square().sum(dim=0)

    def plus(self, other: "Moments") -> "Moments":
        both = Moments(len(self.gram) - 1, self.gram.device, len(self.square))
        both.gram, both.cross = self.gram + other.gram, self.cross + other.cross
        both.square = self.square + other.square
        return both

    def squared_error(self, weight: torch.Tensor) -> torch.Tensor:
        """float64[K]: sum over the tokens of the squared error of predictions with float64[C + 1, K]."""
        return self.square - 2 * (weight * self.cross).sum(dim=0) + (weight * (self.gram @ weight)).sum(dim=0)


class Ridge:
    """Ridge regressions of all strengths from one eigendecomposition, on standardised channels."""

    def __init__(self, moments: Moments):
        self.count = moments.gram[-1, -1]
        self.mean = moments.gram[-1, :-1] / self.count
        self.target_mean = moments.cross[-1] / self.count
        covariance = moments.gram[:-1, :-1] / self.count - torch.outer(self.mean, self.mean)
        variance = covariance.diagonal().clamp(min=0)
        self.scale = torch.where(variance > 1e-12 * variance.max(), variance.rsqrt(), torch.zeros_like(variance))
        covariance = covariance * torch.outer(self.scale, self.scale)
        self.values, self.vectors = torch.linalg.eigh(covariance)
        cross = moments.cross[:-1] / self.count - torch.outer(self.mean, self.target_mean)
        self.projected = self.vectors.T @ (self.scale[:, None] * cross)

    def weight(self, strength: float) -> torch.Tensor:
        """float64[C + 1, K]: weights of the channels, and the constant."""
        solved = self.vectors @ (self.projected / (self.values.clamp(min=0) + strength)[:, None])
        weight = self.scale[:, None] * solved
        return torch.cat([weight, (self.target_mean - self.mean @ weight)[None]])


def fit_probe(fitted: Moments, held_out: Moments) -> tuple[torch.Tensor, dict[str, float]]:
    """float64[C + 1, 4]: weights on all training tokens; and the strength of the ridge for each kind of target.

    The strengths are those with the least squared error on the training scenes held out.
    """
    tried, final = Ridge(fitted), Ridge(fitted.plus(held_out))
    errors = torch.stack([held_out.squared_error(tried.weight(strength)) for strength in STRENGTHS])
    chosen = {name: STRENGTHS[int(errors[:, part].sum(dim=1).argmin())] for name, part in TARGETS.items()}
    weights = [final.weight(chosen[name])[:, part] for name, part in TARGETS.items()]
    return torch.cat(weights, dim=1), chosen


def predict(features: torch.Tensor, weight: torch.Tensor) -> np.ndarray:
    """float64[M, 4] from float[M, C] and float64[C + 1, 4]."""
    return (features.to(weight) @ weight[:-1] + weight[-1]).cpu().numpy()


def valid_tokens(features: torch.Tensor, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
    """float[M, C] and float[M, 4]: the tokens with a target, of features float[T, rows, columns, C]."""
    valid = torch.from_numpy(targets.valid)
    values = torch.from_numpy(targets.values[targets.valid])
    return features.flatten(1, 2)[valid.to(features.device)], values.to(features.device)


def probe_metrics(features: torch.Tensor, targets: Targets, weight: torch.Tensor) -> dict[str, float]:
    """`prediction_metrics` of a probe on the features float[T, rows, columns, C] of one test clip."""
    if not np.any(targets.valid):
        raise ValueError("A test clip has no token with depth and a normal. Check its depth, or leave it out.")
    tokens, values = valid_tokens(features, targets)
    return prediction_metrics(predict(tokens, weight), values.cpu().numpy())


def prediction_metrics(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Metrics of predicted depth and normals float[M, 4] against the true ones float[M, 4].

    Returns:
        `depth_rmse` [m]; `depth_abs_rel`, mean of |p - t| / t; `depth_delta1`, share with max(p / t, t / p) < 1.25
        (Eigen et al. 2014); `normal_mean`, `normal_median` of the angle to the true normal [deg]; `normal_11`,
        `normal_22`, `normal_30`, share below 11.25, 22.5 and 30 degrees (Fouhey et al. 2013).
    """
    depth, truth = predicted[:, 0], true[:, 0]
    ratio = np.maximum(np.maximum(depth, LEAST_PREDICTION) / truth, truth / np.maximum(depth, LEAST_PREDICTION))
    lengths = np.linalg.norm(predicted[:, 1:], axis=1)
    cosine = (predicted[:, 1:] * true[:, 1:]).sum(axis=1) / np.maximum(lengths, 1e-12)
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return {
        "depth_rmse": float(np.sqrt(np.mean((depth - truth) ** 2))),
        "depth_abs_rel": float(np.mean(np.abs(depth - truth) / truth)),
        "depth_delta1": float((ratio < 1.25).mean()),
        "normal_mean": float(angle.mean()),
        "normal_median": float(np.median(angle)),
        **{f"normal_{limit:.0f}": float((angle < limit).mean()) for limit in (11.25, 22.5, 30.0)},
    }


def position_features(fit: FrameFit) -> torch.Tensor:
    """float64[N, 63]: products of cosines of a token's row and column, all that a probe can know without the image."""
    axes = []
    for count in fit.grid:
        place = (np.arange(count) + 0.5) / count
        axes.append(np.cos(np.pi * np.arange(BASIS) * place[:, None]))  # float[count, BASIS]
    product = np.einsum("ra,cb->rcab", *axes).reshape(-1, BASIS * BASIS)
    return torch.from_numpy(product[:, 1:])
