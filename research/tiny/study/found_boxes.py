"""Boxes that a finished arm finds, for result files of ScanRefer and Multi3DRefer, and the tables of all arms.

Of rooms, the task `one` is scored as ScanRefer is, and `any` as Multi3DRefer is; kinds have the same names.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from research.tiny.study.answering import CLIPS_AT_A_TIME, TokensOf
from research.tiny.study.data import DATASET, SplitData
from research.tiny.study.grounding import (
    Expressions,
    Wanted,
    box_scores,
    object_vectors,
    queries_of,
    read_tokens,
    token_boxes,
)
from research.tiny.study.network import packed_outputs
from research.tiny.study.packs import pack
from research.tiny.study.table import Results, difference_table, paired_values, score_table
from research.tiny.study.train import Tools
from vega3d.evaluation.report import scene_notes
from vega3d.evaluation.rules import OVERALL, SCENE_RULES
from vega3d.evaluation.run import AnyAnswerer
from vega3d.evaluation.scenes.answerers import BASELINES, scene_baseline
from vega3d.evaluation.scenes.records import ChosenBoxes, GroundingRecord, best_proposal, with_scores
from vega3d.evaluation.scenes.sources import WITHOUT_PROPOSALS
from vega3d.evaluation.scenes.tables import SET_BENCHMARKS
from vega3d.modeling.grounding_prompts_vega3d import PROMPT
from vega3d.modeling.grounding_vega3d import VegaForVisualGrounding
from vega3d.rooms.dataset.grounding import questions_from_rows
from vega3d.rooms.questions.proposals import PROPOSALS
from vega3d.statistics import RESAMPLES

TASKS = {"scanrefer": "one", "multi3drefer": "any"}  # of rooms, by the benchmark whose rules are theirs
WAYS = (*itertools.product(TASKS, PROPOSALS), ("scanrefer", WITHOUT_PROPOSALS))  # benchmark, source of proposals
FILLING = {WITHOUT_PROPOSALS: "true"}  # source of boxes that are not looked at
BLIND = {"scanrefer": "blind box", "multi3drefer": "no box"}  # column of answers that see nothing


def grounding_records(data: SplitData, benchmark: str, source: str) -> list[GroundingRecord]:
    """The expressions of a split that are of a benchmark's task, with the proposals of a source, or without any."""
    tables, named = zip(data.expressions, data.proposals, strict=True), FILLING.get(source, source)
    questions = [question for rows, boxes in tables for question in questions_from_rows(rows, boxes, named)]
    return [
        GroundingRecord(
            id=question.id,
            scene=question.scene,
            kind=question.kind,
            prompt=PROMPT.format(expression=question.expression),
            dataset=DATASET,
            expression=question.expression,
            boxes=question.boxes[:0] if source == WITHOUT_PROPOSALS else question.boxes,
            targets=question.targets,
        )
        for question in questions
        if question.task == TASKS[benchmark]
    ]


class NoBoxAnswerer:
    """Says that nothing fits, which is right where nothing is meant: a third of what `any` asks."""

    def __init__(self) -> None:
        self.settings = {"name": "no", "kind": "no_box"}

    def answer(self, records: Sequence[GroundingRecord]) -> list[ChosenBoxes]:
        return [ChosenBoxes(record.boxes[:0], np.zeros(0)) for record in records]


def baselines(benchmark: str, source: str) -> dict[str, AnyAnswerer]:
    """What answers without a model: the ceiling of the boxes, by chance, and blind, by name; none without boxes."""
    if source == WITHOUT_PROPOSALS:
        return {}
    found: dict[str, AnyAnswerer] = {name: scene_baseline(name, ()) for name in BASELINES}
    return found | ({"no": NoBoxAnswerer()} if benchmark in SET_BENCHMARKS else {})


class BoxAnswerer:
    """Finds boxes as `VegaForVisualGrounding` does, all expressions about a clip in one pack."""

    def __init__(
        self,
        model: VegaForVisualGrounding,
        expressions: Expressions,
        tools: Tools,
        tokens_of: TokensOf,
        settings: dict,
        benchmark: str,
        source: str,
    ):
        self.model, self.expressions, self.tools, self.tokens_of = model, expressions, tools, tokens_of
        self.settings = {**settings, "kind": "packed_boxes", "proposals": source}
        self.several, self.source = benchmark in SET_BENCHMARKS, source
        self.places = {
            row["id"]: (clip, number)
            for clip, rows in enumerate(expressions.data.expressions)
            for number, row in enumerate(rows)
        }

    def answer(self, records: Sequence[GroundingRecord]) -> list[ChosenBoxes]:
        """The boxes of each record."""
        asked: dict[int, list[int]] = {}
        for record in records:
            clip, row = self.places[record.id]
            asked.setdefault(clip, []).append(row)
        at_a_time, clips = CLIPS_AT_A_TIME[self.model.device.type], list(asked)
        find = self.free_boxes if self.source == WITHOUT_PROPOSALS else self.scores
        found: dict[tuple[int, int], torch.Tensor] = {}
        for start in range(0, len(clips), at_a_time):
            some = clips[start : start + at_a_time]
            for clip, values in zip(some, find(some, [asked[clip] for clip in some]), strict=True):
                found.update({(clip, row): one for row, one in zip(asked[clip], values, strict=False)})
        return [self._chosen(record, found[self.places[record.id]]) for record in records]

    @torch.no_grad()
    def scores(self, clips: list[int], rows: list[list[int]]) -> torch.Tensor:
        """float32[B, E, M + 1] of the E expressions of each clip, fewer of some; as `grounding.box_scores`."""
        with self.tools.autocast():
            queries, tokens, wanted = self._read(clips, rows)
            return box_scores(self.model, queries, object_vectors(self.model, tokens, wanted), wanted).cpu()

    @torch.no_grad()
    def free_boxes(self, clips: list[int], rows: list[list[int]]) -> torch.Tensor:
        """float32[B, E, 6], the boxes that are read off the tokens; rows as of `scores`."""
        with self.tools.autocast():
            return token_boxes(self.model, *self._read(clips, rows))[1].cpu()

    def _read(self, clips: list[int], rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, Wanted]:
        """Queries, fused tokens, and what is wanted, of some expressions of each clip."""
        prefix, model = self.tools.clip.prefix, self.model
        questions = [self.expressions.asked(clip, own) for clip, own in zip(clips, rows, strict=True)]
        length = len(prefix.ids) + max(sum(len(prompt) for prompt, _ in asked) for asked in questions)
        packs = pack(prefix, questions, length).to(model.device)
        chosen = [(own, FILLING.get(self.source, self.source)) for own in rows]
        wanted = self.expressions.wanted(clips, chosen, max(map(len, rows)))
        wanted = Wanted(*(values.to(model.device) for values in wanted))
        tokens = self.tokens_of(clips)
        states = packed_outputs(model, read_tokens(model, tokens, wanted), packs, prefix).last_hidden_state
        return queries_of(states, wanted), tokens, wanted

    def _chosen(self, record: GroundingRecord, found: torch.Tensor) -> ChosenBoxes:
        if self.source == WITHOUT_PROPOSALS:
            return ChosenBoxes(found[None].double().numpy(), np.zeros(1))
        real = torch.cat([found[: len(record.boxes)], found[-1:]])
        chosen = self.model.grounding_head.ranking.chosen(real).tolist() if self.several else best_proposal(real[:-1])
        return with_scores(record.boxes, real, chosen)


# --- Tables ----------------------------------------------------------------------------------------------------------


def box_values(
    results: Results,
    baselines: Mapping[str, Mapping],
    against: Sequence[str],
    benchmark: str,
    resamples: int = RESAMPLES,
) -> dict[str, dict]:
    """`table.paired_values` of arms and baselines, by scoring; differences are of arms, from controls and `BLIND`.

    Args:
        results: of all arms, each with as many seeds.
        baselines: result of each of `baselines`; of boxes that none were given for there are none.
        against: arms that the others are compared with.
        benchmark: of the results.
        resamples: of the bootstrap.
    """
    seeds = len(next(iter(results.values())))
    columns = {**results, **{f"{name} box": [result] * seeds for name, result in baselines.items()}}
    values = {}
    for scoring in SCENE_RULES[benchmark].scorings:
        controls = [name for name in (BLIND[benchmark], *against) if name in columns]
        found = paired_values(columns, controls, scoring, resamples)
        pairs = found["differences"].items()
        of_arms = {pair: value for pair, value in pairs if pair.split(" - ")[0] in results}
        values[scoring] = {**found, "differences": of_arms}
    return values


def box_table(split: str, values: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown of `box_values` by benchmark and proposals."""
    lines = [
        f"## Grounding, {split}",
        "",
        "Percent, with 95 % intervals over seeds and scenes. `oracle box` is the best that the proposals allow, "
        "`blind box` the largest, `chance box` any, `no box` none. Differences in points, of the same seeds and "
        "scenes; bold where the interval leaves out 0.",
        "",
    ]
    for name, scorings in values.items():
        for scoring, found in scorings.items():
            rows = [*SCENE_RULES[name.split()[0]].rows, OVERALL]
            lines += [
                f"### {name} boxes, {scoring}: {found['scenes']} scenes, {found['questions']} expressions",
                "",
                *score_table(found["scores"], rows),
                "",
                *difference_table(found["differences"], rows),
                "",
                *(f"{note}\n" for note in scene_notes(found["figure_scenes"])),
            ]
    return "\n".join(lines)
