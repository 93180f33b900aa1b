"""The two trainings: stage 0 sees pixels, stage 1 sees frozen streams; both learn from packs of questions."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from research.tiny.study.ahead import Ahead
from research.tiny.study.answering import PackedAnswerer
from research.tiny.study.arms import head_group, tune
from research.tiny.study.cells import NOTHING, CellHead, PlaceCodes
from research.tiny.study.data import Batches, SplitData, Words
from research.tiny.study.fusion_watch import FusionWatch
from research.tiny.study.heads import Heads, visual_states
from research.tiny.study.kept import KeptRows
from research.tiny.study.loop import Deadline, Loop, LoopSettings
from research.tiny.study.map_head import Names, map_targets
from research.tiny.study.network import answer_loss, fused_tokens, packed_outputs, projected_tokens
from research.tiny.study.option_head import option_targets
from research.tiny.study.packs import Pack, Prefix, pack
from research.tiny.study.recipe import Recipe, StageRecipe
from research.tiny.study.relation_head import anchors_of, relation_targets
from research.tiny.study.tokens import Stream, semantic_tokens
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning

PLACED_LAYER = 1  # of the language model, after which visual tokens are to tell their places; later ones use them
Log = Callable[[dict], None]
Named = tuple[list[tuple[int, str]], list[str | None]]


@dataclass(frozen=True)
class Tools:
    """
    Args:
        recipe: of the experiment.
        words: of the tokenizer.
        stream: frames of a walk to patches, and the prefix of packs.
        close_ups: the same for close-ups.
        device: of models and batches.
        deadline: after which a training stops.
        on_log: called with each entry of a log.
    """

    recipe: Recipe
    words: Words
    stream: Stream
    close_ups: Stream
    device: torch.device
    deadline: Deadline
    on_log: Log | None = None

    @property
    def precision(self) -> torch.dtype:
        return torch.bfloat16 if self.recipe.precision == "bfloat16" else torch.float32

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def frames(self, data: SplitData, visuals: list[int]) -> torch.Tensor:
        return torch.from_numpy(data.frames_of(visuals)).to(self.device, non_blocking=True)

    def loop_settings(self, folder: Path, identity: dict, stage: StageRecipe) -> LoopSettings:
        return LoopSettings(
            folder,
            identity,
            stage.steps,
            stage.warmup,
            stage.max_grad_norm,
            self.recipe.checkpoint_seconds,
            self.recipe.checkpoint_steps,
        )


class PackMaker:
    """Packs of the steps of a stage: visuals, pack and row ids, as a function of seed and step.

    Those of stage 1 have the targets of `heads.Heads`.
    """

    def __init__(self, tools: Tools, data: SplitData, stage: StageRecipe, seed: int, stream: Stream | None = None):
        self.names = Names(tools.words.tokenizer)
        (self.newline,) = tools.words.tokenizer.encode("\n", add_special_tokens=False)
        self.named: dict[int, Named] = {}
        self.prefix = (stream or tools.stream).prefix
        self.pad = tools.words.tokenizer.pad_token_id
        self.data = data
        self.prompts = tools.words.prompts([row.prompt(data.stage) for row in data.rows])
        self.answers = tools.words.answers([row.answer for row in data.rows])
        self.stage = stage
        self.seeded(seed)

    def seeded(self, seed: int) -> "PackMaker":
        """Takes the order of another seed; the rows' tokens stay."""
        self.batches = Batches(self.data, seed, self.stage.visuals_per_step, self.stage.questions_per_visual)
        return self

    def __call__(self, step: int) -> tuple[list[int], Pack, list[str]]:
        chosen = self.batches.rows(step)
        questions = [[(self.prompts[number], self.answers[number]) for number in rows] for rows in chosen]
        ids = [self.data.rows[number].id for rows in chosen for number in rows]
        visuals, packed = self.batches.visuals(step), pack(self.prefix, questions, self.pad)
        if self.data.stage == 1:
            self._tell(packed, chosen, questions, visuals)
        return visuals, packed, ids

    def _tell(self, packed: Pack, chosen: list[list[int]], questions: list, visuals: list[int]) -> None:
        """Puts the targets of names and options into a pack of `chosen` rows."""
        maps = [self.data.maps[self.data.visuals[number].clip] for number in visuals]
        named = [[self._named(number) for number in rows] for rows in chosen]
        ends = [[found for found, _ in rows] for rows in named]
        anchors = [[found for _, found in rows] for rows in named]
        asked = [[self.data.rows[number] for number in rows] for rows in chosen]
        truths = [[(len(row.options), row.answer) for row in rows] for rows in asked]
        length = packed.ids.shape[1]
        packed.targets = torch.from_numpy(map_targets(self.prefix, questions, ends, maps, length))
        packed.ways = torch.from_numpy(relation_targets(self.prefix, questions, ends, anchors, maps, length))
        packed.is_right = torch.from_numpy(option_targets(self.prefix, questions, truths, self.newline, length))

    def _named(self, row: int) -> Named:
        """Ends and anchors of the names in a row's prompt, which are looked for once."""
        if row not in self.named:
            ends, asked = self.names.ends(self.prompts[row]), self.data.rows[row]
            self.named[row] = ends, anchors_of(asked.kind, [name for _, name in ends], len(asked.options))
        return self.named[row]


def train_stage0(
    model: VegaForSpatialReasoning,
    head: CellHead,
    walks: SplitData,
    close_ups: SplitData,
    tools: Tools,
    folder: Path,
    identity: dict,
    seed: int,
) -> list[dict]:
    """Vision tower, language model and head of cells on walks and close-ups in turn; returns the log."""
    stage = tools.recipe.stage0
    groups = [*tune(model, 0, stage), head_group(head, stage, "vision")]
    loop = Loop(model, groups, tools.loop_settings(folder, identity, stage), tools.deadline, tools.on_log, head)
    turns = [(PackMaker(tools, walks, stage, seed), tools.stream)]
    if stage.close_ups_per_step:
        turns.append((PackMaker(tools, close_ups, of_close_ups(stage), seed, tools.close_ups), tools.close_ups))

    def prepare(step: int) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None, Pack, list[str], Stream]:
        make, stream = turns[step % len(turns)]
        visuals, batch, ids = make(step // len(turns))
        cells = None if stream is tools.close_ups else make.data.cells_of(visuals)
        return make.data.frames_of(visuals), cells, batch, ids, stream

    codes = PlaceCodes(width_of(model), tools.stream.prefix.grid, tools.device)
    model.train()
    with Ahead(prepare, stage.steps) as prepared:

        def compute(step: int) -> tuple[torch.Tensor, list[str]]:
            frames, cells, batch, ids, stream = prepared[step]
            batch = batch.to(tools.device)
            with tools.autocast():
                tokens = semantic_tokens(model, torch.from_numpy(frames).to(tools.device), stream)
                outputs = packed_outputs(model, tokens, batch, stream.prefix, output_hidden_states=True)
                loss = answer_loss(model, outputs.last_hidden_state, batch)
                if cells is not None:
                    classes, marks = (torch.from_numpy(values).to(tools.device) for values in cells)
                    loss = loss + head.loss(tokens, classes, marks) + place_loss(outputs, codes, stream.prefix)
                return loss, ids

        return loop.run(compute)


def place_loss(outputs: BaseModelOutputWithPast, codes: PlaceCodes, prefix: Prefix) -> torch.Tensor:
    return codes.loss(visual_states(outputs, PLACED_LAYER, prefix))


def of_close_ups(stage: StageRecipe) -> StageRecipe:
    return replace(stage, visuals_per_step=stage.close_ups_per_step)


def width_of(model: VegaForSpatialReasoning) -> int:
    """Of the language model."""
    return model.config.vlm_config.text_config.hidden_size


@dataclass(frozen=True)
class Streams:
    """
    Args:
        semantic: float[V, N, D] of all visuals of a split.
        hidden: float[V, t, h, w, C], or None for an arm without a generator.
    """

    semantic: KeptRows
    hidden: KeptRows | None

    def __getitem__(self, visuals: list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.semantic[visuals], None if self.hidden is None else self.hidden[visuals]


def fused_rows(
    model: VegaForSpatialReasoning, rows: tuple[torch.Tensor, torch.Tensor | None], tools: Tools
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As `network.fused_tokens`, of what `Streams` gives for some visuals."""
    semantic, hidden = rows
    semantic = semantic.to(tools.device, non_blocking=True).float()
    if hidden is not None:
        hidden = hidden.to(tools.device, non_blocking=True).float()
    return fused_tokens(model, semantic, hidden, tools.stream.prefix)


def make_heads(model: VegaForSpatialReasoning, tools: Tools, seed: int) -> Heads:
    """New ones of the seed, for base or stage 1."""
    layers = model.config.vlm_config.text_config.num_hidden_layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = Heads(width_of(model), layers, tools.recipe.rooms.num_frames, tools.stream.prefix)
    return heads.to(tools.device)


def train_stage1(
    model: VegaForSpatialReasoning,
    heads: Heads,
    make: PackMaker,
    streams: Streams,
    tools: Tools,
    folder: Path,
    identity: dict,
) -> list[dict]:
    """Language model, projector and gate on spatial questions, from frozen streams; returns the log."""
    stage, prefix = make.stage, tools.stream.prefix
    codes = PlaceCodes(width_of(model), tools.stream.prefix.grid, tools.device)
    even_gate(model)
    match_scale(model, streams[make(0)[0]], tools)
    groups = [*tune(model, 1, stage), head_group(heads, stage, "llm")]
    watch, settings = FusionWatch(model.model.fusion), tools.loop_settings(folder, identity, stage)
    loop = Loop(model, groups, settings, tools.deadline, tools.on_log, heads, watch.values)

    def prepare(step: int) -> tuple[tuple[torch.Tensor, torch.Tensor | None], np.ndarray, Pack, list[str]]:
        visuals, batch, ids = make(step)
        return streams[visuals], make.data.points_of(visuals, tools.stream.temporal), batch, ids

    model.train()
    with watch, Ahead(prepare, stage.steps) as prepared:

        def compute(step: int) -> tuple[torch.Tensor, list[str]]:
            rows, looked_at, batch, ids = prepared[step]
            batch = batch.to(tools.device)
            with tools.autocast():
                tokens, _ = fused_rows(model, rows, tools)
                outputs = packed_outputs(model, tokens, batch, prefix, output_hidden_states=True)
                loss = answer_loss(model, outputs.last_hidden_state, batch) + place_loss(outputs, codes, prefix)
                return loss + heads.loss(outputs, batch, torch.from_numpy(looked_at).to(tools.device)), ids

        return loop.run(compute)


@torch.no_grad()
def even_gate(model: VegaForSpatialReasoning) -> None:
    """Gates of one half for every token at the start.

    As long as generative tokens tell nothing they disturb, and all that can shut them out does so: a random gate also
    by way of the projector, which turns them to where the gate is shut. With weights of zero this way is not there.
    """
    gate = getattr(model.model.fusion, "gate", None)
    if gate is not None:
        nn.init.zeros_(gate.weight)
        nn.init.zeros_(gate.bias)


@torch.no_grad()
def match_scale(model: VegaForSpatialReasoning, rows: tuple[torch.Tensor, torch.Tensor | None], tools: Tools) -> None:
    """Scales the projector's last layer, so that generative tokens begin as large as the semantic ones.

    Initialisation from data (Mishkin & Matas, 2016). Tokens of a trained tower are large: without it the mix of a new
    projector changes them by less than a hundredth, and no generator can make a difference.
    """
    fusion, (semantic, hidden) = model.model.fusion, rows
    if fusion is None or hidden is None:
        return
    projected = projected_tokens(model, hidden.to(tools.device).float(), tools.stream.prefix)
    last = model.model.projector.mlp[-1]
    ratio = (semantic.float().pow(2).mean() / projected.pow(2).mean().cpu()).sqrt().to(tools.device)
    last.weight.mul_(ratio)
    last.bias.mul_(ratio)


@torch.no_grad()
def bare_accuracy(model: VegaForSpatialReasoning, data: SplitData, tools: Tools, stream: Stream) -> dict[str, dict]:
    """For each kind of row, asked in bare words: the share answered exactly, and that of the commonest answer."""

    def tokens_of(visuals: list[int]) -> torch.Tensor:
        with tools.autocast():
            return semantic_tokens(model, tools.frames(data, visuals), stream)

    model.eval()
    answerer = PackedAnswerer(model, tools.words, stream.prefix, tokens_of, {}, tools.precision)
    answers = answerer.answer_prompts([(row.visual, row.prompt(0)) for row in data.rows])
    right: dict[str, list[bool]] = defaultdict(list)
    truths: dict[str, Counter[str]] = defaultdict(Counter)
    for row, (text, _) in zip(data.rows, answers, strict=True):
        right[row.kind].append(text.strip() == row.answer)
        truths[row.kind][row.answer] += 1
    return {
        kind: {
            "rows": len(hits),
            "accuracy": sum(hits) / len(hits),
            "commonest_answer": truths[kind].most_common(1)[0][1] / len(hits),
        }
        for kind, hits in sorted(right.items())
    }


@torch.no_grad()
def point_errors(
    model: VegaForSpatialReasoning, heads: Heads, data: SplitData, streams: Streams, tools: Tools, batch: int = 16
) -> dict[str, list[float]]:
    """For each scene the errors of `PointHead.errors`, in clips without marks."""
    model.eval()
    empty = [(tools.words.prompts(["Where?"])[0], np.empty(0, np.int64))]
    plain = [number for number, visual in enumerate(data.visuals) if not visual.marks]
    scenes = {data.visuals[row.visual].clip: row.scene for row in data.rows}
    errors: dict[str, list[float]] = {}
    for first in range(0, len(plain), batch):
        visuals = plain[first : first + batch]
        points = torch.from_numpy(data.points_of(visuals, tools.stream.temporal)).to(tools.device)
        with tools.autocast():
            tokens, _ = fused_rows(model, streams[visuals], tools)
            asked = pack(tools.stream.prefix, [empty] * len(visuals)).to(tools.device)
            outputs = packed_outputs(model, tokens, asked, tools.stream.prefix, output_hidden_states=True)
            found = heads.points.errors(*heads.looking(outputs), points).tolist()
        errors.update({scenes[data.visuals[number].clip]: row for number, row in zip(visuals, found, strict=True)})
    return errors


@torch.no_grad()
def cell_accuracy(
    model: VegaForSpatialReasoning, head: CellHead, data: SplitData, tools: Tools, batch: int = 16
) -> dict[str, dict]:
    """Of cells that show an object, the share whose class is known, and of those in marked boxes whose letter is."""
    model.eval()
    hits: dict[str, int] = Counter()
    truths: dict[str, Counter[int]] = defaultdict(Counter)
    for first in range(0, len(data.visuals), batch):
        visuals = list(range(first, min(first + batch, len(data.visuals))))
        with tools.autocast():
            tokens = semantic_tokens(model, tools.frames(data, visuals), tools.stream)
            found = [logits.argmax(dim=-1).cpu().numpy() for logits in head(tokens)]
        for name, answers, wanted in zip(("cell_class", "cell_mark"), found, data.cells_of(visuals), strict=True):
            is_asked = wanted > NOTHING
            hits[name] += int((answers[:, : wanted.shape[1]] == wanted)[is_asked].sum())
            truths[name].update(wanted[is_asked].tolist())
    return {
        name: {
            "rows": counts.total(),
            "accuracy": hits[name] / max(1, counts.total()),
            "commonest_answer": max(counts.values(), default=0) / max(1, counts.total()),
        }
        for name, counts in truths.items()
    }
