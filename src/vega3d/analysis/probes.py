"""Probes of frozen features: ridge regression in closed form, and the attentive probe, trained and tested.

Everything that ridge regression needs of the training tokens are their second moments, so that any number of clips
takes the memory of one matrix. Views are pooled to 3 x 3 and stored in float32 until their principal axes are known.
Letters: M samples, C channels, K targets, T views, Q = 9 C channels of a pooled view, A principal axes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from vega3d.analysis.attentive import GRID, Inputs, train_attentive
from vega3d.analysis.readings import READINGS, Metrics, ProbeOptions, Samples, Targets
from vega3d.analysis.tokens import FrameFit
from vega3d.extras import optional_module

STRENGTHS = tuple(10.0**power for power in range(-6, 4))  # of the ridge, relative to a channel's own variance
BASIS = 8  # cosine functions along each side of the position baseline
POOLED = 3  # rows and columns of the pooled features of a view
AXES = 384  # principal axes of pooled views that are kept, but no more than one for every `VIEWS_PER_AXIS` views
VIEWS_PER_AXIS = 4
MOST_VIEWS = 2048  # from which the axes are found
NEGLIGIBLE = 1e-9  # share of the largest variance below which an axis holds nothing
SHRINKAGE = 0.1  # of the scatter within objects towards a multiple of the identity
MOST_TOKENS = 600  # of objects of a clip that are compared with each other

Predictor = Callable[[Inputs], np.ndarray]  # gives float[M, K]


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


def fit_probe(fitted: Moments, held_out: Moments, parts: Mapping[str, slice]) -> tuple[torch.Tensor, dict[str, float]]:
    """float64[C + 1, K]: weights on all training samples; and the strength of the ridge for each part of the targets.

    The strengths are those with the least squared error on the training scenes held out.
    """
    tried, final = Ridge(fitted), Ridge(fitted.plus(held_out))
    errors = torch.stack([held_out.squared_error(tried.weight(strength)) for strength in STRENGTHS])
    chosen = {name: STRENGTHS[int(errors[:, part].sum(dim=1).argmin())] for name, part in parts.items()}
    weight = torch.zeros_like(fitted.cross)
    for name, part in parts.items():
        weight[:, part] = final.weight(chosen[name])[:, part]
    return weight, chosen


def predict(features: torch.Tensor, weight: torch.Tensor) -> np.ndarray:
    """float64[M, K] from float[M, C] and float64[C + 1, K]."""
    return (features.to(weight) @ weight[:-1] + weight[-1]).cpu().numpy()


def valid_tokens(features: torch.Tensor, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
    """float[M, C] and float[M, 7]: the tokens with a target, of features float[T, rows, columns, C]."""
    valid = torch.from_numpy(targets.valid)
    values = torch.from_numpy(targets.values[targets.valid])
    return features.flatten(1, 2)[valid.to(features.device)], values.to(features.device)


def position_features(fit: FrameFit) -> torch.Tensor:
    """float64[N, 63]: products of cosines of a token's row and column, its place in the picture."""
    axes = []
    for count in fit.grid:
        place = (np.arange(count) + 0.5) / count
        axes.append(np.cos(np.pi * np.arange(BASIS) * place[:, None]))  # float[count, BASIS]
    product = np.einsum("ra,cb->rcab", *axes).reshape(-1, BASIS * BASIS)
    return torch.from_numpy(product[:, 1:])


def time_features(views: int) -> torch.Tensor:
    """float64[T, 7]: cosines of a view's place in its clip."""
    place = (np.arange(views) + 0.5) / views
    return torch.from_numpy(np.cos(np.pi * np.arange(1, BASIS) * place[:, None]))


# --- Features of views and objects -----------------------------------------------------------------------------------


def pooled_views(features: torch.Tensor, side: int = POOLED) -> torch.Tensor:
    """float32[T, side^2, C]: means over side x side parts of each view of float[T, rows, columns, C]."""
    return F.adaptive_avg_pool2d(features.float().permute(0, 3, 1, 2), side).flatten(2).transpose(1, 2)


def object_features(features: torch.Tensor, targets: Targets) -> torch.Tensor:
    """float32[S, C]: mean feature of the tokens of each sighting, of float[T, rows, columns, C]."""
    tokens = features.float().flatten(1, 2)
    if targets.labels is None or not len(targets.sightings):
        return tokens.new_zeros(0, tokens.shape[-1])
    masks = [torch.from_numpy(targets.labels[view] == item) for view, item in targets.sightings]
    views = targets.sightings[:, 0].tolist()
    return torch.stack([tokens[view][mask].mean(dim=0) for view, mask in zip(views, masks, strict=True)])


class Projection(NamedTuple):
    """Principal axes of pooled views."""

    mean: torch.Tensor  # float64[Q]
    axes: torch.Tensor  # float64[Q, A]

    def __call__(self, views: torch.Tensor) -> torch.Tensor:
        """float64[T, A] of float[T, 9, C]."""
        return (views.flatten(1).to(self.mean) - self.mean) @ self.axes


def principal_axes(clips: Sequence[torch.Tensor]) -> Projection:
    """The `AXES` directions in which pooled views float[T, 9, C] of clips differ most, or fewer of few views.

    They are found from at most `MOST_VIEWS` views, taken evenly.
    """
    stride = -(-sum(map(len, clips)) // MOST_VIEWS)
    starts = np.cumsum([0, *map(len, clips)])
    flat = torch.cat(
        [views[-int(start) % stride :: stride].flatten(1) for views, start in zip(clips, starts, strict=False)]
    ).double()
    mean = flat.mean(dim=0)
    centred = flat - mean
    is_wide = centred.shape[1] > centred.shape[0]
    values, vectors = torch.linalg.eigh(centred @ centred.T if is_wide else centred.T @ centred)
    kept = (values > NEGLIGIBLE * values.max().clamp(min=1e-30)).nonzero().flatten().flip(0)
    kept = kept[: min(AXES, max(1, len(flat) // VIEWS_PER_AXIS))]
    axes = vectors[:, kept]
    return Projection(mean, centred.T @ axes / values[kept].sqrt() if is_wide else axes)


# --- Which tokens belong together ------------------------------------------------------------------------------------


class Scatter:
    """How tokens differ within an object, over all its views, from which features are whitened."""

    def __init__(self, channels: int, device: torch.device):
        self.within = torch.zeros(channels, channels, dtype=torch.float64, device=device)
        self.total = torch.zeros(channels, dtype=torch.float64, device=device)
        self.count = 0

    def add(self, tokens: torch.Tensor, labels: torch.Tensor) -> None:
        """float[M, C] and int[M] of one clip."""
        if not len(tokens):  # no object covers most of a token
            return
        tokens = tokens.double()
        _, place = labels.unique(return_inverse=True)
        members = F.one_hot(place).to(tokens).T  # a product sums in the same order each time, on a GPU too
        sums = members @ tokens
        centred = tokens - (sums / members.sum(dim=1, keepdim=True))[place]
        self.within += centred.T @ centred
        self.total += sums.sum(dim=0)
        self.count += len(tokens)

    def whitening(self) -> tuple[torch.Tensor, torch.Tensor]:
        """float64[C] and float64[C, C]: mean, and the map after which objects vary alike in all directions."""
        covariance = self.within / max(self.count, 1)
        spread = covariance.diagonal().mean().clamp(min=1e-12)
        eye = torch.eye(len(covariance), dtype=torch.float64, device=covariance.device)
        factor = torch.linalg.cholesky((1 - SHRINKAGE) * covariance + SHRINKAGE * spread * eye)
        return self.total / max(self.count, 1), torch.linalg.solve_triangular(factor, eye, upper=False).T


def labelled_tokens(features: torch.Tensor, targets: Targets) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """float[M, C], int[M] and int[M]: the tokens of objects, their objects and their views."""
    assert targets.labels is not None
    labels = torch.from_numpy(targets.labels).to(features.device)
    view, token = (labels > 0).nonzero(as_tuple=True)
    return features.flatten(1, 2)[view, token], labels[view, token], view


def grouping_metrics(tokens: torch.Tensor, labels: torch.Tensor, views: torch.Tensor) -> Metrics:
    """ROC AUC of the cosine of two tokens for being of one object, within views and across them; 0.5 is chance.

    Of a clip at most `MOST_TOKENS` tokens float[M, C] are compared, taken evenly; NaN where all pairs are alike.
    """
    chosen = torch.linspace(0, len(tokens) - 1, min(MOST_TOKENS, len(tokens))).round().long().to(tokens.device)
    unit = F.normalize(tokens[chosen].double(), dim=1)
    first, second = torch.triu_indices(len(chosen), len(chosen), 1, device=tokens.device)
    cosine = (unit @ unit.T)[first, second].cpu().numpy().round(9)  # what is equal but for rounding is a tie
    same = (labels[chosen][first] == labels[chosen][second]).cpu().numpy()
    within = (views[chosen][first] == views[chosen][second]).cpu().numpy()
    return {
        "instances_auc": roc_auc(cosine[within], same[within]),
        "instances_auc_across": roc_auc(cosine[~within], same[~within]),
    }


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Share of pairs of a positive and a negative in which the positive scores higher, ties half; NaN without any."""
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses:
        return float("nan")
    ranks = optional_module("scipy.stats").rankdata(scores)
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


# --- Training and testing --------------------------------------------------------------------------------------------


class PooledClip(NamedTuple):
    """What is kept of a clip for readings of views, pairs and objects."""

    views: torch.Tensor  # float[T, 9, C], of attentive probes bfloat16[T, GRID^2, C]; float64[T, A] once projected
    objects: torch.Tensor  # float[S, C]
    samples: Mapping[str, Samples]
    is_held_out: bool


def pooled_clip(options: ProbeOptions, features: torch.Tensor, targets: Targets, is_held_out: bool) -> PooledClip:
    """What is kept of the features float[T, rows, columns, C] of a clip, on the CPU."""
    is_attentive = options.probe == "attentive"
    views = pooled_views(features, GRID).bfloat16() if is_attentive else pooled_views(features, POOLED)
    return PooledClip(views.cpu(), object_features(features, targets).cpu(), targets.samples, is_held_out)


def gathered(reading: str, clips: Sequence[PooledClip]) -> Inputs:
    """All samples of a reading, one clip after the other."""
    kind, samples = READINGS[reading].input, [clip.samples[reading] for clip in clips]
    views = torch.cat([clip.views for clip in clips])
    view = shifted([part.view for part in samples], [len(clip.views) for clip in clips])
    if kind == "view":
        return Inputs(views, view)
    others = [clip.objects[:, None] if kind == "object" else clip.views for clip in clips]
    places = [part.other for part in samples if part.other is not None]
    return Inputs(views, view, torch.cat(others), shifted(places, [len(part) for part in others]))


def shifted(places: Sequence[np.ndarray], counts: Sequence[int]) -> torch.Tensor:
    """int[M]: places within clips as places in all clips, of which each has so many."""
    starts = np.cumsum([0, *counts[:-1]])
    return torch.from_numpy(np.concatenate([place + start for place, start in zip(places, starts, strict=True)]))


def design(inputs: Inputs) -> torch.Tensor:
    """float64[M, D]: the input of a linear probe: the projected view, and beside it the other view or the object."""
    views = inputs.views[inputs.view]
    if inputs.others is None or inputs.other is None:
        return views
    return torch.cat([views, inputs.others[inputs.other].flatten(1).to(views)], dim=1)


@dataclass
class FittedProbes:
    """The probes of all readings in one setting."""

    options: ProbeOptions
    weight: torch.Tensor | None = None  # float64[C + 1, 7], of the readings of tokens
    whitening: tuple[torch.Tensor, torch.Tensor] | None = None  # of instances
    projection: Projection | None = None  # of linear probes of views
    predictors: dict[str, list[Predictor]] = field(default_factory=dict)  # of the other readings, one for each seed
    strengths: dict[str, float] = field(default_factory=dict)  # of the ridge, for each reading

    def metrics(self, features: torch.Tensor, targets: Targets) -> Metrics:
        """All metrics of the features float[T, rows, columns, C] of one test clip; means over seeds, and of each."""
        found: Metrics = {}
        if self.weight is not None:
            if not np.any(targets.valid):
                raise ValueError("A test clip has no token with depth and a normal. Check its depth, or leave it out.")
            tokens, values = valid_tokens(features, targets)
            predicted, true = predict(tokens, self.weight), values.cpu().numpy()
            for part, score in token_readings(self.options).values():
                found |= score(predicted[:, part], true[:, part])
        if self.whitening is not None and targets.labels is not None:
            mean, whitened = self.whitening
            tokens, labels, views = labelled_tokens(features, targets)
            found |= grouping_metrics((tokens.double() - mean) @ whitened, labels, views)
        if self.predictors:
            clip = projected(pooled_clip(self.options, features, targets, False), self.projection)
            for reading, predictors in self.predictors.items():
                if reading in clip.samples and len(clip.samples[reading].view):
                    found |= self.seed_metrics(reading, predictors, clip)
        return found | {f"{name}_strength": strength for name, strength in self.strengths.items()}

    def seed_metrics(self, reading: str, predictors: Sequence[Predictor], clip: PooledClip) -> Metrics:
        """Means over the seeds of attentive probes, and the metrics of each."""
        score, inputs = READINGS[reading].metrics, gathered(reading, [clip])
        assert score is not None
        each = [score(predictor(inputs), clip.samples[reading].values) for predictor in predictors]
        means = {name: float(np.mean([found[name] for found in each])) for name in each[0]}
        if len(each) == 1:
            return means
        seeds = zip(self.options.seeds, each, strict=True)
        return means | {f"{name}_seed_{seed}": found[name] for seed, found in seeds for name in found}


class ProbeTraining:
    """Collects the features of training clips in one setting, and fits the probes of all readings.

    With `is_mean` those of views, pairs and objects are the best constants.
    """

    def __init__(self, options: ProbeOptions, is_mean: bool = False):
        self.options, self.is_mean = options, is_mean
        self.moments: dict[bool, Moments] = {}
        self.scatter: Scatter | None = None
        self.clips: list[PooledClip] = []

    def add(self, features: torch.Tensor, targets: Targets, is_held_out: bool) -> None:
        """float[T, rows, columns, C] of one clip."""
        channels, device = features.shape[-1], features.device
        if token_readings(self.options):
            known = self.moments.setdefault(is_held_out, Moments(channels, device, targets.values.shape[-1]))
            known.add(*valid_tokens(features, targets))
        if "instances" in self.options.readings and targets.labels is not None:
            self.scatter = self.scatter or Scatter(channels, device)
            self.scatter.add(*labelled_tokens(features, targets)[:2])
        if targets.samples:
            self.clips.append(pooled_clip(self.options, features, targets, is_held_out))

    def fit(self, device: torch.device, on_progress: Callable[[], None] = lambda: None) -> FittedProbes:
        """The probes; `on_progress` is called now and then. Attentive ones are trained on the device."""
        fitted = FittedProbes(self.options)
        if self.moments:
            parts = {name: part for name, (part, _) in token_readings(self.options).items()}
            fitted.weight, fitted.strengths = fit_probe(self.moments[False], self.moments[True], parts)
        if self.scatter is not None:
            fitted.whitening = self.scatter.whitening()
        if self.clips and self.options.probe == "linear":
            # Axes of the clips held out, too, would fit these better than clips of a test.
            fitted.projection = principal_axes([clip.views for clip in self.clips if not clip.is_held_out])
            self.clips = [projected(clip, fitted.projection) for clip in self.clips]
        for reading in self.options.readings:
            on_progress()
            clips = [clip for clip in self.clips if reading in clip.samples and len(clip.samples[reading].view)]
            if {clip.is_held_out for clip in clips} == {False, True}:  # else there is too little to learn from
                self._fit_reading(fitted, reading, clips, device, on_progress)
        return fitted

    def _fit_reading(
        self,
        fitted: FittedProbes,
        reading: str,
        clips: Sequence[PooledClip],
        device: torch.device,
        on_progress: Callable[[], None],
    ) -> None:
        parts = [clip.samples[reading].values for clip in clips]
        values = np.concatenate(parts)
        held_out = np.repeat([clip.is_held_out for clip in clips], [len(part) for part in parts])
        if self.is_mean:
            constant = READINGS[reading].constant(values)
            fitted.predictors[reading] = [lambda inputs: np.tile(constant, (len(inputs.view), 1))]
        elif self.options.probe == "attentive":
            inputs = gathered(reading, clips)
            fitted.predictors[reading] = [
                train_attentive(inputs, values, held_out, seed, device, on_progress) for seed in self.options.seeds
            ]
        else:
            weight, strengths = fit_ridge(reading, design(gathered(reading, clips)), values, held_out)
            fitted.predictors[reading] = [lambda inputs: predict(design(inputs), weight)]
            fitted.strengths |= strengths


def fit_ridge(
    reading: str, features: torch.Tensor, values: np.ndarray, held_out: np.ndarray
) -> tuple[torch.Tensor, dict[str, float]]:
    """`fit_probe` of samples float[M, D], float[M, K], of which bool[M] are held out."""
    known = {is_held: Moments(features.shape[1], targets=values.shape[1]) for is_held in (False, True)}
    for is_held, moments in known.items():
        mask = torch.from_numpy(held_out == is_held)
        moments.add(features[mask], torch.from_numpy(values)[mask])
    return fit_probe(known[False], known[True], {reading: slice(0, values.shape[1])})


def projected(clip: PooledClip, projection: Projection | None) -> PooledClip:
    """The clip with its views on their principal axes; as it is without a projection."""
    return clip if projection is None else clip._replace(views=projection(clip.views))


def token_readings(options: ProbeOptions) -> dict[str, tuple[slice, Callable[[np.ndarray, np.ndarray], Metrics]]]:
    """The columns of `Targets.values` and the metrics of those readings that are of tokens."""
    chosen = {name: READINGS[name] for name in options.readings if READINGS[name].input == "token"}
    return {name: (reading.columns, reading.metrics) for name, reading in chosen.items() if reading.metrics}
