"""`ClipEncoder`: encodes each clip once, and writes prompts in which its tokens stand."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from vega3d.configs import check_count
from vega3d.features.cache import FeatureCache
from vega3d.inference.encoding import (
    LANGUAGE_INPUTS,
    Asked,
    EncodedClip,
    content_hash,
    fused_tokens,
    join_visuals,
    placed_tokens,
    read_frames,
    semantic_tokens,
    small,
    video_file,
    visual_kind,
    with_boxes_in_words,
    with_features,
)
from vega3d.modeling.fusion_vega3d import FUSIONS
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.processing.sampling_vega3d import check_sampling
from vega3d.processing.video_vega3d import VideoClip
from vega3d.questions import SpatialQuestion

Progress = Callable[[int], None] | None


class ClipEncoder:
    """Holds the clips that questions are about, encoded, and gives the language model's inputs for prompts about them.

    A clip is known by its content and by the boxes drawn in, so a copy of a file is not encoded again. For a fusion
    that reads the question the generator's features and the pixels are held, and fused for each question.

    Args:
        model: loaded, in eval mode.
        processor: the model's own.
        cache: the generator's features on disk, in which they are looked up and stored.
        num_frames: frames sampled evenly from a video; the processor's default if neither this nor `fps` is given.
        fps: frames sampled a second instead.
        stored_clips: how many encoded clips are held in memory; those used longest ago go first.

    Raises:
        ValueError: if the sampling cannot be, or `stored_clips` is below 1.
    """

    def __init__(
        self,
        model: VegaForSpatialReasoning,
        processor: VegaProcessor,
        *,
        cache: FeatureCache | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        stored_clips: int = 8,
    ):
        check_sampling(num_frames, fps)
        check_count("stored_clips", stored_clips)
        self.model, self.processor, self.cache = model, processor, cache
        self.num_frames = processor.num_frames if num_frames is None and fps is None else num_frames
        self.fps, self.stored_clips = fps, stored_clips
        self._placeholders = {"video": processor.video_token, "image": processor.image_token}
        self._clips: OrderedDict[tuple, EncodedClip] = OrderedDict()

    @torch.no_grad()
    def encode(
        self,
        question: SpatialQuestion | Any,
        *,
        with_generator: bool = True,
        with_semantic: bool = False,
        with_frames: bool = False,
        output_gates: bool = False,
        on_progress: Progress = None,
        frames: VideoClip | None = None,
    ) -> EncodedClip:
        """The clip of a question, encoded now if it is not in memory, with all that is wanted of it.

        Args:
            question: or a video alone, as in `ask`.
            with_generator: its tokens of both streams; of a model with `fusion="none"` the VLM's own.
            with_semantic: the VLM's tokens alone.
            with_frames: small frames for pictures.
            output_gates: the gates also of a fusion that reads the question, for this question.
            on_progress: as in `answer`, as are the errors.
            frames: of `read_frames` for this question, so that a file is not read again.
        """
        if not isinstance(question, SpatialQuestion):
            question = SpatialQuestion(question, "What is there?")
        question = self.posed(question)
        with named_errors(question):
            self._rendered(question)
            key, clip = self._key(question)
            stored = self._clips.get(key)
            both = with_generator and self.model.config.fusion != "none"
            wants = {
                "fused": both and (stored is None or (stored.fused is None and not stored.encoder)),
                "semantic": (with_semantic or not both) and (stored is None or stored.semantic is None),
                "frames": with_frames and (stored is None or stored.frames is None),
            }
            if any(wants.values()):
                if clip is None:
                    clip = frames if frames is not None else read_frames(question, self.num_frames, self.fps)
                stored = self._encoded(question, clip, stored, wants, on_progress)
        assert stored is not None
        self._clips[key] = stored
        self._clips.move_to_end(key)
        while len(self._clips) > self.stored_clips:
            self._clips.popitem(last=False)
        if output_gates and both and stored.encoder:
            return replace(stored, gates=self._inputs([question], [stored])[1][0])
        return stored

    def posed(self, question: Asked) -> Asked:
        """The question as the model takes it: to one with `boxes_in_words` marked boxes are told, not drawn."""
        if not (self.model.config.boxes_in_words and question.marks) or question.is_image or question.visual is None:
            return question
        with named_errors(question):
            return with_boxes_in_words(question, self.num_frames, self.fps)

    def is_encoded(self, question: SpatialQuestion) -> bool:
        """Whether the clip of a question is in memory."""
        return self._key(self.posed(question))[0] in self._clips

    def _key(self, question: SpatialQuestion) -> tuple[tuple, VideoClip | None]:
        """Equal for questions that show the model the same frames; and the frames, if they had to be read for it."""
        file = video_file(question)
        clip = None if file is not None else read_frames(question, self.num_frames, self.fps)
        content = content_hash(clip if clip is not None else file)  # type: ignore[arg-type]
        marks = tuple(map(tuple, question.marks))
        place = question.frame if marks else None
        return (question.is_image, content, place, marks, self.num_frames, self.fps), clip

    def _encoded(
        self,
        question: SpatialQuestion,
        clip: VideoClip,
        stored: EncodedClip | None,
        wants: dict[str, bool],
        on_progress: Progress,
    ) -> EncodedClip:
        """The stored clip with the parts that are wanted and not there yet."""
        new: dict[str, Any] = {}
        kind = visual_kind(question)
        if wants["frames"]:
            new["frames"] = small(clip.frames)
        if stored is None or wants["fused"] or wants["semantic"]:
            visual = clip.frames[0] if question.is_image else clip
            inputs = self.processor.apply_chat_template(
                SpatialQuestion(visual, question.prompt, is_image=question.is_image).messages(),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                num_frames=len(clip),
            ).to(self.model.device)
            stored = self._described(question, clip, inputs) if stored is None else stored
        else:
            inputs = {}
        if wants["fused"]:
            encoder = with_features(self.model, inputs, self.cache, on_progress)
            if FUSIONS[self.model.config.fusion].needs_instruction:
                new["encoder"] = encoder
            else:
                new["fused"], new["gates"] = fused_tokens(self.model, kind, encoder, inputs["input_ids"])
        if wants["semantic"]:
            semantic = semantic_tokens(self.model, kind, inputs)
            new["semantic"] = placed_tokens(self.model, kind, semantic, inputs)
        return replace(stored, **new)

    def _described(self, question: SpatialQuestion, clip: VideoClip, inputs) -> EncodedClip:
        """A clip without tokens: what stands for it in a prompt, which is checked against the processor's own."""
        kind = visual_kind(question)
        grid = inputs[f"{kind}_grid_thw"]
        if question.is_image:
            text = self.processor.vlm_processor.replace_image_token({"image_grid_thw": grid}, 0)
        else:
            text = self.processor.video_text(clip, grid[0])
        described = EncodedClip(
            kind=kind,
            text=text,
            language={name: torch.as_tensor(inputs[name]) for name in LANGUAGE_INPUTS if name in inputs},
            seconds=None if question.is_image else [float(second) for second in clip.seconds],
        )
        ids = self._tokenise([self._prompt(question, described)])["input_ids"]
        if not torch.equal(ids, inputs["input_ids"]):
            raise ValueError(
                f"The processor writes the {kind} into the prompt in another way than {text[:80]!r}..., so it cannot "
                "be shared between questions. Use the chat template of the VLM."
            )
        return described

    def _inputs(
        self, questions: Sequence[SpatialQuestion], clips: Sequence[EncodedClip | None], with_generator: bool = True
    ) -> tuple[dict, list[torch.Tensor | None]]:
        """The prompts, padded on the left, with their visual tokens; and the gates of each."""
        prompts = [self._prompt(*asked) for asked in zip(questions, clips, strict=True)]
        shown = [[] if clip is None else [clip] for clip in clips]
        inputs, gates = self.language_inputs(prompts, shown, with_generator)
        points = [point for question in questions for point in question.points]
        if points:
            inputs["coord_positions"] = torch.tensor(points, device=self.model.device)
        return inputs, [gate[0] if gate else None for gate in gates]

    @torch.no_grad()
    def language_inputs(
        self, prompts: Sequence[str], clips: Sequence[Sequence[EncodedClip]], with_generator: bool = True
    ) -> tuple[dict, list[list[torch.Tensor | None]]]:
        """Inputs of the language model for prompts in which each clip's `text` stands, and the gates of the clips.

        Args:
            prompts: whole, as the chat template writes them.
            clips: of each prompt, in the order in which they stand in it.
            with_generator: as in `answer`.

        Raises:
            ValueError: if a prompt has several clips and the fusion reads the question.
        """
        inputs = self._tokenise(list(prompts))
        tokens: dict[str, list] = {}
        gates: list[list[torch.Tensor | None]] = []
        for shown, ids, mask in zip(clips, inputs["input_ids"], inputs["attention_mask"], strict=True):
            gates.append([])
            for clip in shown:
                visual: Any = clip.semantic
                gate = None
                if with_generator and self.model.config.fusion != "none":
                    visual, gate = clip.fused, clip.gates
                    if visual is None:  # they depend on the question; its prompt is int[1, L] without padding
                        if len(shown) > 1:
                            raise ValueError(
                                f"fusion={self.model.config.fusion!r} reads the question with each visual, so a "
                                f"conversation has one, but this has {len(shown)}. Ask about one."
                            )
                        visual, gate = fused_tokens(self.model, clip.kind, clip.encoder, ids[mask.bool()][None])
                tokens.setdefault(clip.kind, []).append(visual)
                gates[-1].append(gate)
        for name in LANGUAGE_INPUTS:
            values = [clip.language[name] for shown in clips for clip in shown if name in clip.language]
            if values:
                inputs[name] = torch.cat(values)
        if tokens:
            inputs["mm_encoder_outputs"] = {kind: join_visuals(visuals) for kind, visuals in tokens.items()}
        return inputs, gates

    def _rendered(self, question: SpatialQuestion) -> str:
        """The conversation as text, with one placeholder for the visual; without a visual, of words alone."""
        kind = visual_kind(question)
        content = [] if question.visual is None else [{"type": kind}]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": question.prompt}]}]
        prompt = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        counts = {other: prompt.count(placeholder) for other, placeholder in self._placeholders.items()}
        if question.visual is not None and counts != {**dict.fromkeys(counts, 0), kind: 1}:
            which = f"Question {question.name}" if question.name else "The question"
            raise ValueError(f"{which} holds placeholders of images or videos. Reword it.")
        return prompt

    def _prompt(self, question: SpatialQuestion, clip: EncodedClip | None) -> str:
        """The conversation as text, with what the processor writes for the clip."""
        prompt = self._rendered(question)
        return prompt if clip is None else prompt.replace(self._placeholders[clip.kind], clip.text)

    def _tokenise(self, prompts: list[str]) -> dict:
        """`input_ids` and `attention_mask` int[B, L], padded on the left, so that the last token is each prompt's."""
        tokens = self.processor.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
        return {name: tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask")}


@contextmanager
def named_errors(question: SpatialQuestion) -> Iterator[None]:
    """Puts the name of a question, if it has one, before the error of its bad input."""
    try:
        yield
    except ValueError as error:
        prefix = f"Question {question.name}"
        if not question.name or str(error).startswith(prefix):
            raise
        raise ValueError(f"{prefix}: {error}") from error
