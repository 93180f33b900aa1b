"""Does the generator matter in a fused model? The same questions, with parts of what it is given taken away.

OUT/parts.jsonl    the answers of finished scenes, from which a killed run continues; gone at the end
OUT/audit.json     everything, by `audit_report.summarise_audit`
OUT/audit.html     the same as a page
"""

import random
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vega3d.configs import check_count
from vega3d.evaluation.answerers import ModelAnswerer
from vega3d.evaluation.audit_report import CONDITIONS, FORMAT, audit_page, summarise_audit, token_statistics
from vega3d.evaluation.metrics import QUESTION_TYPES
from vega3d.evaluation.run import checked, run_header
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.features.cache import FeatureCache
from vega3d.files import check_folder, is_free, only_run, read_json, write_json, write_whole
from vega3d.inference.encoding import EncodedClip, content_hash, read_frames
from vega3d.inference.streams import StreamSession
from vega3d.journals import JOURNAL_REMEDY, check_same_header, open_journal
from vega3d.modeling.fusion_vega3d import FUSIONS
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.processing.video_vega3d import VideoClip
from vega3d.questions import RawAnswer, SpatialQuestion
from vega3d.statistics import RESAMPLES

RESULT, PAGE, PARTS = "audit.json", "audit.html", "parts.jsonl"
LEAST_SCENES = 2  # another clip is of another scene
GREY = 128
STEPS = 1 + len(CONDITIONS)  # of a scene: it is read, and asked under each condition
STORED_CLIPS = 8


@dataclass(frozen=True)
class AuditedScene:
    """A scene with the questions that are asked about it, and the scene whose features stand in for its own."""

    questions: tuple[AnnotatedQuestion, ...]
    other: AnnotatedQuestion

    @property
    def name(self) -> str:
        return scene_of(self.questions[0])


def scene_of(question: AnnotatedQuestion) -> str:
    return f"{question.dataset}/{question.scene}"


def audit(
    model: VegaForSpatialReasoning,
    processor: VegaProcessor,
    records: Sequence[AnnotatedQuestion],
    output: str | Path,
    name: str = "model",
    scenes: int | None = None,
    questions_per_scene: int | None = None,
    num_frames: int | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    cache: FeatureCache | None = None,
    metadata: Mapping | None = None,
    on_progress: Callable[[int, int], None] = lambda done, wanted: None,
) -> dict:
    """Asks a fused model the same questions under each of `CONDITIONS`; what a killed audit asked is not asked again.

    Args:
        model: any with a fusion, in eval mode.
        processor: the model's own.
        records: questions with their videos.
        output: folder for the results; new, or of the same audit, which is continued, or returned if it is finished.
        name: what the result calls the model.
        scenes: the most scenes, drawn by `seed`; None for all.
        questions_per_scene: the most questions of a scene, balanced over the types; None for all.
        num_frames: as in `Session`.
        seed: decides scenes, questions, noise, orders, other clips and the bootstrap.
        resamples: draws of the bootstrap.
        cache: the generator's features on disk.
        metadata: more values for the result, such as the command.
        on_progress: called with the steps newly done and those wanted. A step is a clip that is read to make the
            plan, or a scene under one condition.

    Returns:
        The values of `audit.json`.

    Raises:
        ValueError: for a model without a fusion, fewer than two scenes whose clips have one grid, a clip of one frame,
            or an output that holds something else or is of another run; or as `Session` does.
    """
    output = Path(output)
    check_audited(model.config.fusion, name)
    check_audit_folder(output)
    answerer = ModelAnswerer(model, processor, name, num_frames, cache=cache)
    auditor = Auditor(StreamSession(model, processor, cache=cache, num_frames=num_frames), seed)
    for record in records:
        answerer.question(record)  # refuses one without a video
    chosen = chosen_questions(records, scenes, questions_per_scene, seed)
    plan, left_out = auditor.plan(chosen, lambda: on_progress(1, len(chosen) * STEPS))
    asked = [question for scene in plan for question in scene.questions]
    header = {
        **run_header(answerer, asked, "audit", []),
        "format": FORMAT,
        "seed": seed,
        "questions_per_scene": questions_per_scene,
        "in_4_bits": model.config.to_dict().get("quantization_config") is not None,
        "scenes": [{"scene": scene.name, "other": scene_of(scene.other)} for scene in plan],
        "left_out": left_out,
        "fusion_scalars": fusion_scalars(model),
    }
    output.mkdir(parents=True, exist_ok=True)
    with only_run(output):
        result = finished_audit(output, header)
        if result is None:
            parts = audited_parts(auditor, plan, output / PARTS, header, on_progress)
            result = {**summarise_audit(header, asked, parts, resamples), **(metadata or {})}
            write_json(output / RESULT, result)
        write_whole(output / PAGE, partial(Path.write_text, data=audit_page(result), encoding="utf-8"))
        (output / PARTS).unlink(missing_ok=True)
    return result


def audited_parts(
    auditor: "Auditor",
    plan: Sequence[AuditedScene],
    journal_file: Path,
    header: Mapping,
    on_progress: Callable[[int, int], None],
) -> dict[str, dict]:
    """The part of each scene, in the order of the plan; each is in the journal before the next one is begun."""
    wanted = len(plan) * STEPS
    with open_journal(journal_file, header) as (parts, journal):
        check_parts(parts, plan, journal_file)
        on_progress(len(parts) * len(CONDITIONS), wanted)
        for scene in plan:
            if scene.name not in parts:
                part = auditor.part(scene, lambda: on_progress(1, wanted))
                journal.append({"answers": {scene.name: part}})
                parts[scene.name] = part
    return {scene.name: parts[scene.name] for scene in plan}


def check_parts(parts: Mapping, plan: Sequence[AuditedScene], journal_file: Path) -> None:
    """Raises ValueError if stored parts are not what `Auditor.part` gives for scenes of the plan."""
    scenes = {scene.name: {question.id: question for question in scene.questions} for scene in plan}
    for name, part in parts.items():
        try:
            for condition in CONDITIONS:
                given = part["answers"][condition.name]
                if given.keys() != scenes[name].keys():
                    raise KeyError(condition.name)
                for key, (text, probabilities) in given.items():
                    checked(scenes[name][key], (text, probabilities))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{journal_file} has no answers of {name}: {error!r}. {JOURNAL_REMEDY}") from error


def check_audited(fusion: str, name: str) -> None:
    """Raises ValueError for a model that has no generator to audit."""
    if fusion == "none":
        raise ValueError(f"{name} has fusion='none': no generator takes part in its answers. Give a fused model.")


def check_audit_folder(output: Path) -> None:
    """Raises ValueError unless the folder can be written, and is free or of an audit."""
    check_folder(output)
    if is_free(output):
        return
    names = {file.name for file in output.iterdir() if not file.name.startswith(".")}  # a killed writer leaves some
    if not names <= {RESULT, PAGE, PARTS} or not names & {RESULT, PARTS}:
        raise ValueError(f"{output} is not empty and holds no audit. Choose another folder.")
    if RESULT in names:
        found = read_json(output / RESULT, "Choose another folder.").get("format")
        if found != FORMAT:
            raise ValueError(
                f"{output / RESULT} has the format {found!r:.80}, but must be {FORMAT!r}. Choose another."
            )


def fusion_scalars(model: VegaForSpatialReasoning) -> dict[str, float]:
    """The single numbers that a fusion has learnt, such as the residual scale r."""
    named = model.model.fusion.named_parameters()
    return {name: value.item() for name, value in named if value.ndim == 0}


def finished_audit(output: Path, header: Mapping) -> dict | None:
    """The result of an audit that is finished; raises ValueError if it is another one."""
    if not (output / RESULT).exists():
        return None
    result = read_json(output / RESULT)
    check_same_header({name: result.get(name) for name in header}, header, output / RESULT)
    return result


def chosen_questions(
    records: Sequence[AnnotatedQuestion], scenes: int | None, per_scene: int | None, seed: int
) -> list[list[AnnotatedQuestion]]:
    """At most `per_scene` questions of each of at most `scenes` scenes, in an order drawn by `seed`.

    Each scene gives its questions of the types that have the fewest so far, so that each type is asked in as many
    scenes as can be. Raises ValueError for fewer than two scenes.
    """
    for name, value, least in (("scenes", scenes, LEAST_SCENES), ("questions_per_scene", per_scene, 1)):
        if value is not None:
            check_count(name, value, least)
    by_scene: dict[str, list[AnnotatedQuestion]] = {}
    for record in records:
        by_scene.setdefault(scene_of(record), []).append(record)
    chance = random.Random(seed)
    if len(by_scene) < LEAST_SCENES:
        raise ValueError(
            f"The questions are about {len(by_scene)} scene, but an audit gives the features of one to another. Give "
            "questions on more scenes."
        )
    drawn = chance.sample(sorted(by_scene), len(by_scene))[:scenes]
    counts: Counter[str] = Counter()
    chosen = []
    for name in drawn:
        left = chance.sample(by_scene[name], len(by_scene[name]))
        taken: list[AnnotatedQuestion] = []
        while left and (per_scene is None or len(taken) < per_scene):
            rarest = min(left, key=lambda question: (counts[question.question_type], rank(question)))
            counts[rarest.question_type] += 1
            left.remove(rarest)
            taken.append(rarest)
        chosen.append(sorted(taken, key=by_scene[name].index))
    return chosen


def rank(question: AnnotatedQuestion) -> int:
    return QUESTION_TYPES.index(question.question_type)


class Auditor:
    """Answers the questions of one scene after another under all conditions.

    Args:
        session: with the model that is audited.
        seed: of noise and orders.
    """

    def __init__(self, session: StreamSession, seed: int):
        self.session, self.seed = session, seed
        self.reads_question = FUSIONS[session.model.config.fusion].needs_instruction
        self._streams: OrderedDict[str, EncodedClip] = OrderedDict()

    def plan(
        self, chosen: Sequence[Sequence[AnnotatedQuestion]], on_step: Callable[[], None] = lambda: None
    ) -> tuple[list[AuditedScene], list[str]]:
        """The scenes in a cycle for each grid of the generator's, in which each takes the features of the next one.

        Returns:
            The scenes, and the names of those that are left out, because no other has clips of their grid.

        Raises:
            ValueError: if a clip cannot be read or has one frame, or no two scenes have one grid.
        """
        grids: dict[tuple, list[Sequence[AnnotatedQuestion]]] = {}
        for questions in chosen:
            clip = self.plain_clip(questions[0])
            if len(clip) < 2:
                raise ValueError(
                    f"{questions[0].visual} has one frame, which has no order. Give videos, or leave it out."
                )
            inputs = self.session.processor.generator_inputs(videos=[clip], num_frames=len(clip))
            grids.setdefault(tuple(inputs["generator_video_grid_thw"][0].tolist()), []).append(questions)
            on_step()
        cycles = [scenes for scenes in grids.values() if len(scenes) >= LEAST_SCENES]
        if not cycles:
            raise ValueError(
                f"Got {len(chosen)} scenes, no two of them with clips of one size and length, but the features of one "
                "are given to another. Give more scenes, or videos of one size."
            )
        alone = [scene_of(scenes[0][0]) for scenes in grids.values() if len(scenes) < LEAST_SCENES]
        plan = [
            AuditedScene(tuple(questions), following[0])
            for scenes in cycles
            for questions, following in zip(scenes, [*scenes[1:], scenes[0]], strict=True)
        ]
        return plan, alone

    @torch.no_grad()
    def part(self, scene: AuditedScene, on_step: Callable[[], None]) -> dict:
        """All that one scene says.

        Returns:
            `answers` by condition and id, each text and option probabilities; `token_change` by condition, the mean
            over the clips of RMS(tokens - tokens as it is) / RMS(tokens as it is); `gate` and `fusion_change`,
            `token_statistics` of the gates and of the fusion's own change of a token; `seconds` taken [s].
        """
        start = time.perf_counter()
        clips = self.clips(scene)
        other = features_of(self.streams(self.plain_clip(scene.other)))
        answers: dict[str, dict[str, RawAnswer]] = {}
        changes: dict[str, float] = {}
        as_it_is: list[FusedClip] = []
        for condition in CONDITIONS:
            fused = [
                one for clip, asked in clips for one in self.fused(condition.name, clip, asked, other, scene.name)
            ]
            as_it_is = as_it_is or fused
            changes[condition.name] = mean_change([one.tokens for one in fused], [one.tokens for one in as_it_is])
            answers[condition.name] = self.answers(fused)
            on_step()
        gates = [one.gates.flatten() for one in as_it_is if one.gates is not None]
        own_changes = torch.cat([relative_change(one.tokens, one.semantic) for one in as_it_is])
        return {
            "answers": answers,
            "token_change": changes,
            "gate": token_statistics(torch.cat(gates).numpy()) if gates else None,
            "fusion_change": token_statistics(own_changes.cpu().numpy()),
            "seconds": round(time.perf_counter() - start, 3),
        }

    def clips(self, scene: AuditedScene) -> list[tuple[VideoClip, list[AnnotatedQuestion]]]:
        """The clips of a scene with the questions about each: the plain one, and those with boxes drawn in."""
        clips: dict[str, tuple[VideoClip, list[AnnotatedQuestion]]] = {}
        for question in map(self.session.posed, scene.questions):
            clip = self.own_clip(question)
            clips.setdefault(content_hash(clip), (clip, []))[1].append(question)
        return list(clips.values())

    def fused(
        self, condition: str, clip: VideoClip, questions: list[AnnotatedQuestion], other: torch.Tensor, scene: str
    ) -> Iterator["FusedClip"]:
        """A clip under a condition; for each of its questions, if the fusion reads them, else once for all."""
        shown = self.shown(condition, clip, scene)
        streams = self.streams(shown)
        features = self.changed(condition, features_of(streams), other, scene)
        for asked in [[question] for question in questions] if self.reads_question else [questions]:
            encoded, gates = self.session.fused(streams, features, asked[0])
            name = asked[0].id if self.reads_question else ""
            yield FusedClip(
                key=(content_hash(shown), name),
                clip=encoded,
                tokens=visual_tokens(encoded.fused),
                semantic=visual_tokens(streams.semantic),
                gates=gates,
                questions=asked,
            )

    def answers(self, clips: Sequence["FusedClip"]) -> dict[str, RawAnswer]:
        """Answers by id; questions about clips that have become the same are asked together."""
        groups: dict[tuple, tuple[EncodedClip, list[AnnotatedQuestion]]] = {}
        for one in clips:
            groups.setdefault(one.key, (one.clip, []))[1].extend(one.questions)
        answers: dict[str, RawAnswer] = {}
        for clip, asked in groups.values():
            given = self.session.answer_about(clip, asked)
            pairs = zip(asked, given, strict=True)
            answers |= {question.id: checked(question, answer) for question, answer in pairs}
        return answers

    def own_clip(self, question: SpatialQuestion) -> VideoClip:
        return read_frames(question, self.session.num_frames, self.session.fps)

    def plain_clip(self, question: AnnotatedQuestion) -> VideoClip:
        """The clip of a question's scene, without boxes."""
        return self.own_clip(replace(question, marks=(), frame=None))

    def streams(self, clip: VideoClip) -> EncodedClip:
        """Those of a clip, encoded once while it is among the last `STORED_CLIPS` that were asked for."""
        key = content_hash(clip)
        if key not in self._streams:
            self._streams[key] = self.session.streams(clip)
        self._streams.move_to_end(key)
        while len(self._streams) > STORED_CLIPS:
            self._streams.popitem(last=False)
        return self._streams[key]

    def order(self, length: int, scene: str) -> list[int]:
        """One cycle through all places (Sattolo), so that nothing stays where it was."""
        chance, order = random.Random(f"{self.seed}:{scene}:order"), list(range(length))
        for place in range(length - 1, 0, -1):
            with_place = chance.randrange(place)
            order[place], order[with_place] = order[with_place], order[place]
        return order

    def shown(self, condition: str, clip: VideoClip, scene: str) -> VideoClip:
        """The frames that both streams see; their times stay."""
        frames = clip.frames
        if condition == "shuffled frames":
            frames = frames[self.order(len(clip), scene)]
        elif condition == "repeated frame":
            frames = frames[[len(clip) // 2] * len(clip)]
        elif condition == "blind":
            frames = frames * 0 + GREY
        return clip if frames is clip.frames else replace(clip, frames=frames)

    def changed(self, condition: str, features: torch.Tensor, other: torch.Tensor, scene: str) -> torch.Tensor | None:
        """The features float[t, h, w, C] that the fusion gets; None for none."""
        if condition == "noise":
            return noise_like(features, f"{self.seed}:{scene}:noise")
        if condition == "other clip":
            return other
        if condition == "shuffled features":
            return features[self.order(len(features), scene)]
        return None if condition == "without" else features


@dataclass(frozen=True, eq=False, kw_only=True)
class FusedClip:
    """A clip as the language model sees it under a condition.

    Attributes:
        key: equal for clips that show the same.
        clip: its encoding, to ask about.
        tokens: float32[N, D], fused.
        semantic: float32[N, D], the same of the VLM alone.
        gates: as in `StreamSession.fused`.
        questions: that are asked about it.
    """

    key: tuple
    clip: EncodedClip
    tokens: torch.Tensor
    semantic: torch.Tensor
    gates: torch.Tensor | None
    questions: list[AnnotatedQuestion]


def visual_tokens(outputs: Any) -> torch.Tensor:
    """float32[N, D] of the one clip in encoder outputs."""
    return outputs.pooler_output[0].float()


def features_of(streams: EncodedClip) -> torch.Tensor:
    """float[t, h, w, C] of the generator."""
    return streams.encoder["generator_hidden_states"][0]


def noise_like(features: torch.Tensor, seed: str) -> torch.Tensor:
    """Gaussian noise with the very mean and standard deviation of each channel of float[t, h, w, C]."""
    drawn = torch.Generator().manual_seed(random.Random(seed).getrandbits(63))
    noise = torch.randn(features.shape, generator=drawn).flatten(0, 2)
    own = features.float().cpu().flatten(0, 2)
    (spread, mean), (noise_spread, noise_mean) = (torch.std_mean(values, 0, correction=0) for values in (own, noise))
    matched = (noise - noise_mean) / noise_spread * spread + mean
    return matched.view(features.shape).to(features)


def relative_change(tokens: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """float[N]: RMS(tokens - before) / RMS(before) over the channels of float[N, D]; 0 where both are 0."""
    moved, size = ((values.square().mean(-1)).sqrt() for values in (tokens - before, before))
    return torch.where(moved == 0, moved, moved / size)


def mean_change(tokens: Sequence[torch.Tensor], before: Sequence[torch.Tensor]) -> float:
    """Mean over clips of RMS(tokens - before) / RMS(before), each over all of float[N, D]."""
    changes = [relative_change(own.flatten(), other.flatten()) for own, other in zip(tokens, before, strict=True)]
    return float(torch.stack(changes).mean())
