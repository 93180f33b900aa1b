"""The two trainings: the tower sees pixels, then each arm learns from packs of questions on frozen streams."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from research.tiny.simulator.graphs import graphed
from research.tiny.study.ahead import Ahead
from research.tiny.study.arms import head_group, tower_groups, tune
from research.tiny.study.data import SplitData, Words
from research.tiny.study.fusion_watch import FusionWatch
from research.tiny.study.grounding import Expressions, Wanted, ground_losses, read_tokens
from research.tiny.study.loop import LOOKED_AT_EVERY, Deadline, Loop, LoopSettings, Losses
from research.tiny.study.network import (
    answer_loss,
    compiled_layers,
    fused_tokens,
    packed_outputs,
    projected_tokens,
    visual_states,
)
from research.tiny.study.packs import Pack, PackMaker, Prefix, pack
from research.tiny.study.points import PlaceCodes, PointHead, name_loss, point_classes
from research.tiny.study.recipe import Recipe
from research.tiny.study.streams import ClipFormat, StreamRows, semantic_tokens
from research.tiny.study.tower import LabelHead
from vega3d.modeling.modeling_vega3d import VegaTaskModel

VALIDATION_BATCHES = 4
PLACED_LAYER = 1  # of the language model, after which visual tokens are to tell their places; later ones use them
Log = Callable[[dict], None]
Streams = tuple[StreamRows, StreamRows | None]  # float[V, N, D] of the tower, float[V, t, h, w, C] of the arm


@dataclass(frozen=True)
class Tools:
    """What every training and evaluation of a study needs."""

    recipe: Recipe
    words: Words
    clip: ClipFormat  # frames to patches, and the prefix of packs
    text: Prefix  # of packs of rows without pictures
    device: torch.device
    deadline: Deadline
    on_log: Log | None = None

    @property
    def precision(self) -> torch.dtype:
        return torch.bfloat16 if self.recipe.precision == "bfloat16" else torch.float32

    def autocast(self) -> torch.autocast:
        # Without the cache, so that a captured step casts its weights anew.
        return torch.autocast(
            self.device.type, self.precision, enabled=self.precision != torch.float32, cache_enabled=False
        )

    def loop_settings(self, folder: Path, identity: dict) -> LoopSettings:
        recipe = self.recipe
        return LoopSettings(folder, identity, recipe.checkpoint_seconds, recipe.checkpoint_steps)


def width_of(model: VegaTaskModel) -> int:
    """Of the language model."""
    return model.config.vlm_config.text_config.hidden_size


def embeddings(model: VegaTaskModel) -> torch.Tensor:
    """float[V, D], of the tokens of the vocabulary."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight


def train_tower(
    model: VegaTaskModel, head: LabelHead, data: SplitData, tools: Tools, folder: Path, identity: dict
) -> list[dict]:
    """Vision tower and head of labels on the classes of patches; returns the log."""
    stage = tools.recipe.tower
    groups = [*tower_groups(model, stage), head_group(head, stage.learning_rate)]
    loop = Loop(model, groups, stage, tools.loop_settings(folder, identity), tools.deadline, tools.on_log, head)
    parameters, grid = list(loop.trained.values()), tools.clip.prefix.grid

    def clips(step: int) -> list[int]:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(step * stage.clips // len(data)))
        return [int(order[place % len(data)]) for place in range(step * stage.clips, (step + 1) * stage.clips)]

    def gradients(frames: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        with tools.autocast():
            loss = head.loss(semantic_tokens(model, frames, tools.clip), labels, grid)
        return loss, torch.autograd.grad(loss, parameters)

    def prepare(step: int) -> list[torch.Tensor]:
        chosen = clips(step)
        return [torch.from_numpy(values) for values in (data.frames(chosen), data.labels(chosen))]

    model.train()
    with Ahead(prepare, stage.steps) as prepared:

        def compute(step: int) -> tuple[Losses, Sequence[torch.Tensor], list[str]]:
            loss, found = gradients(*(values.to(tools.device) for values in prepared[step]))
            return {"loss": loss}, found, [f"clip {clip}" for clip in clips(step)]

        return loop.run(compute)


@torch.no_grad()
def label_accuracy(model: VegaTaskModel, head: LabelHead, data: SplitData, tools: Tools, batch: int = 16) -> float:
    """Share of the patches that show an object whose class is known."""
    model.eval()
    right = asked = 0
    for start in range(0, len(data), batch):
        clips = range(start, min(start + batch, len(data)))
        frames, labels = (
            torch.from_numpy(values).to(tools.device) for values in (data.frames(clips), data.labels(clips))
        )
        with tools.autocast():
            found = head(semantic_tokens(model, frames, tools.clip), tools.clip.prefix.grid).argmax(dim=-1)
        is_object = labels > 0
        right += int((found[:, : labels.shape[1]] == labels)[is_object].sum())
        asked += int(is_object.sum())
    return right / max(asked, 1)


class Reader(nn.Module):
    """An arm's model with the heads that its training alone needs, and its losses on a batch."""

    shares: torch.Tensor

    def __init__(self, model: VegaTaskModel, points: PointHead, tools: Tools):
        super().__init__()
        self.model, self.points, self.tools = model, points, tools
        self.codes = PlaceCodes(width_of(model), tools.clip.prefix.grid, tools.device)
        names = tools.words.names()
        shares = torch.zeros(len(names), embeddings(model).shape[0])
        for number, ids in enumerate(names):
            shares[number, ids] = 1 / len(ids)
        self.register_buffer("shares", shares, persistent=False)  # of each token in the name of each class

    def looking(self, tokens: torch.Tensor, seen: Pack) -> tuple[torch.Tensor, ...]:
        """float[B, L, D], last states; then the states float[B, N, D] that `PlaceCodes` and `PointHead` take."""
        prefix = self.tools.clip.prefix
        outputs = packed_outputs(self.model, tokens, seen, prefix, output_hidden_states=True)
        layers = self.model.config.vlm_config.text_config.num_hidden_layers
        read = (visual_states(outputs, layer, prefix) for layer in (PLACED_LAYER, layers // 3, layers // 2))
        return outputs.last_hidden_state, *read

    def losses(
        self,
        semantic: torch.Tensor,
        hidden: torch.Tensor | None,
        points: torch.Tensor,
        labels: torch.Tensor,
        seen: Pack,
        read: Pack,
        wanted: Wanted | None = None,
    ) -> Losses:
        """The weighted sum, and each loss by itself.

        Args:
            semantic, hidden: of the two streams, float[B, N, D] and float[B, t, h, w, C].
            points: float[B, N, 5], what each visual token looks at.
            labels: int[B, N], what it shows.
            seen, read: packs about the clips, and of rows without pictures.
            wanted: what the expressions mean that packs about the first clips begin with; of a model that grounds.
        """
        recipe = self.tools.recipe.training
        with self.tools.autocast():
            tokens, _ = fused_tokens(self.model, semantic, hidden, self.tools.clip.prefix)
            shown = tokens if wanted is None else read_tokens(self.model, tokens, wanted)
            states, placed, near, mapped = self.looking(shown, seen)
            found = {
                "answers": answer_loss(self.model, states, seen, self.tools.clip.prefix),
                "points": self.points.loss(near, mapped, point_classes(points)),
                "places": self.codes.loss(placed),
                "names": name_loss(placed, labels, self.shares @ embeddings(self.model)),
            }
            if len(read.ids):
                text = packed_outputs(self.model, None, read, self.tools.text).last_hidden_state
                found["text"] = answer_loss(self.model, text, read, self.tools.text)
            if wanted is not None:
                found |= ground_losses(self.model, states, tokens, wanted)
        total = torch.stack([recipe.weights.get(name, 1.0) * loss for name, loss in found.items()]).sum()
        return {"loss": total, **found}


@dataclass(frozen=True)
class Batches:
    """What the steps of an arm see, by their numbers: packs about the clips of a split, and its frozen streams."""

    make: PackMaker
    streams: Streams
    temporal: int  # frames that a visual token sees
    expressions: Expressions | None = None  # of a study that grounds

    def prepare(self, step: int) -> tuple[list[int], list[torch.Tensor], list[str]]:
        """Clips, all tensors of `Reader.losses` but the streams, and the ids of the rows."""
        clips, seen, read, ids = self.make(step)
        data = self.make.data
        shown = (data.points(clips, self.temporal), data.token_labels(clips, self.temporal))
        wanted = () if self.expressions is None else self.expressions.of_step(self.make.seed, step, clips)
        return clips, [*map(torch.from_numpy, shown), *seen, *read, *wanted], ids

    def on_device(self, clips: list[int], values: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        """The arguments of `arm_losses`."""
        streamed = [rows for rows in rows_of(self.streams, clips) if rows is not None]
        return [*streamed, *(value.to(device, non_blocking=True) for value in values)]


def arm_losses(reader: Reader, *batch: torch.Tensor) -> Losses:
    """`Reader.losses` of plain tensors, of which an arm without a second stream has one less."""
    streams = 1 if reader.model.model.fusion is None else 2
    hidden = batch[1] if streams == 2 else None
    points, labels, *packs = batch[streams:]
    wanted = Wanted(*packs[8:]) if packs[8:] else None
    return reader.losses(batch[0], hidden, points, labels, Pack(*packs[:4]), Pack(*packs[4:8]), wanted)


def train_arm(reader: Reader, train: Batches, validation: Batches, folder: Path, identity: dict) -> list[dict]:
    """Language model, projector and gate on spatial questions, from frozen streams; returns the log.

    The losses on the first clips of `validation` are logged now and then: far above those of training, answers are
    learnt by heart.
    """
    model, tools = reader.model, reader.tools
    stage, grounding = tools.recipe.training, tools.recipe.grounding
    if grounding is None or grounding.start is None:
        even_gate(model)
        match_scale(model, rows_of(train.streams, train.make.clips(0)), tools)
    groups = [*tune(model, stage), head_group(reader.points, stage.learning_rates["llm"])]
    watch, settings = FusionWatch(model.model.fusion), tools.loop_settings(folder, identity)

    def gradients(*batch: torch.Tensor) -> tuple[Losses, Sequence[torch.Tensor]]:
        losses = arm_losses(reader, *batch)
        return losses, torch.autograd.grad(losses["loss"], parameters)

    step_gradients = graphed(gradients, tools.device)

    def measures(step: int) -> dict[str, float]:
        found = watch.values()
        if step % stage.validation_steps < LOOKED_AT_EVERY or step == stage.steps:
            sums = Counter[str]()
            for number in range(VALIDATION_BATCHES):
                clips, values, _ = validation.prepare(number)
                losses, _ = step_gradients(*validation.on_device(clips, values, tools.device))
                sums.update({name: loss.item() for name, loss in losses.items()})
            found |= {f"validation_{name}": value / VALIDATION_BATCHES for name, value in sums.items()}
        return found

    loop = Loop(model, groups, stage, settings, tools.deadline, tools.on_log, reader.points, measures)
    parameters = list(loop.trained.values())
    model.train()
    layers = compiled_layers(model) if stage.compile and tools.device.type == "cuda" else nullcontext()
    with watch, layers, Ahead(train.prepare, stage.steps) as prepared:

        def compute(step: int) -> tuple[Losses, Sequence[torch.Tensor], list[str]]:
            clips, values, ids = prepared[step]
            losses, found = step_gradients(*train.on_device(clips, values, tools.device))
            return losses, found, ids

        return loop.run(compute)


def rows_of(streams: Streams, clips: list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """float[B, N, D] and float[B, t, h, w, C] of some clips."""
    semantic, hidden = streams
    return semantic[clips].float(), None if hidden is None else hidden[clips].float()


@torch.no_grad()
def even_gate(model: VegaTaskModel) -> None:
    """Gates of one half for every token at the start.

    As long as generative tokens tell nothing they disturb, and all that can shut them out does so: a random gate also
    by way of the projector, which turns them to where the gate is shut. With weights of zero this way is not there.
    """
    gate = getattr(model.model.fusion, "gate", None)
    if gate is not None:
        nn.init.zeros_(gate.weight)
        nn.init.zeros_(gate.bias)


@torch.no_grad()
def match_scale(model: VegaTaskModel, rows: tuple[torch.Tensor, torch.Tensor | None], tools: Tools) -> None:
    """Scales the projector's last layer, so that generative tokens begin as large as the semantic ones.

    Initialisation from data (Mishkin & Matas, 2016). Tokens of a trained tower are large: without it the mix of a new
    projector changes them by less than a hundredth, and no generator can make a difference.
    """
    semantic, hidden = rows
    if model.model.fusion is None or hidden is None:
        return
    projected = projected_tokens(model, hidden, tools.clip.prefix)
    last = model.model.projector.mlp[-1]
    ratio = (semantic.pow(2).mean() / projected.pow(2).mean()).sqrt()
    last.weight.mul_(ratio)
    last.bias.mul_(ratio)


@torch.no_grad()
def point_errors(reader: Reader, data: SplitData, streams: Streams, batch: int = 16) -> dict[str, list[float]]:
    """For each scene the errors of `PointHead.errors`."""
    reader.eval()
    tools, errors = reader.tools, {}
    prefix = tools.clip.prefix
    (where,) = tools.words.prompts(["Where?"])
    asked_nothing = [(where, where[:0])]
    scenes = {row.clip: row.scene for row in data.rows}
    for start in range(0, len(data), batch):
        clips = list(range(start, min(start + batch, len(data))))
        points = torch.from_numpy(data.points(clips, tools.clip.temporal)).to(tools.device)
        with tools.autocast():
            tokens, _ = fused_tokens(reader.model, *rows_of(streams, clips), prefix)
            asked = pack(prefix, [asked_nothing] * len(clips), len(prefix.ids) + len(where)).to(tools.device)
            _, _, near, mapped = reader.looking(tokens, asked)
            found = reader.points.errors(near, mapped, point_classes(points)).tolist()
        errors.update({scenes[clip]: row for clip, row in zip(clips, found, strict=True)})
    return errors
