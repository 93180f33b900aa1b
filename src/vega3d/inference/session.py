"""`Session`: a loaded model that encodes each clip once and answers many questions about it."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TextStreamer,
)
from transformers.utils import ModelOutput

from vega3d.configs import check_count
from vega3d.features.cache import FeatureCache
from vega3d.inference.answer import Answer, CheckedLogits, letter_probabilities, notices
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
from vega3d.inference.shared_pass import shared_inputs
from vega3d.modeling.fusion_vega3d import FUSIONS
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.processing.sampling_vega3d import check_sampling
from vega3d.processing.video_vega3d import VideoClip
from vega3d.questions import Mark, RawAnswer, SpatialQuestion, reason_and_answer

MAX_NEW_TOKENS = 64  # of an open answer
BARE_TOKENS, WORDS_TOKENS = 16, 128  # of a choice or a number: bare, as VSI-Bench allows, and with what it stands on
Progress = Callable[[int], None] | None


class Session:
    """Answers questions about videos and images with one loaded model.

    The first question about a clip costs a pass of the generator and of the vision tower; what comes out is held in
    memory, and further questions cost the language model alone. A clip is known by its content and by the boxes drawn
    in, so a copy of a file is not encoded again. For a fusion that reads the question the generator's features and the
    pixels are held, and fused for each question. Answers are greedy, so the same question has the same answer.

    Example:

    ```python
    session = vega3d.load("vega3d-tiny")
    answer = session.ask("room", "Where is the bed, from the first frame?")
    print(answer.text, answer.notice)
    ```

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

    @property
    def answer_tokens(self) -> int:
        """The most tokens of a choice or a number."""
        return WORDS_TOKENS if self.model.config.answers_in_words else BARE_TOKENS

    def ask(
        self,
        visual: Any,
        question: str,
        options: Sequence[str] = (),
        *,
        is_numeric: bool = False,
        is_image: bool = False,
        frame: int | None = None,
        marks: Sequence[Mark] = (),
        points: Sequence[tuple[float, float, float]] = (),
        **settings: Any,
    ) -> Answer:
        """Answers one question about a video or image.

        Args:
            visual: a path, the name of a shipped clip (`room`, `study`), a `VideoClip`, or frames, as `VegaProcessor`
                takes them.
            question: the text; this and the next six as in `SpatialQuestion`. A model with `boxes_in_words` is
                told the marks in the place of the options `box A`, `box B`, ...
            settings: those of `answer`.

        Errors are those of `SpatialQuestion` and `answer`.
        """
        asked = SpatialQuestion(
            visual,
            question,
            options,
            is_image=is_image,
            is_numeric=is_numeric,
            frame=frame,
            marks=marks,
            points=points,
        )
        return self.answer(asked, **settings)

    @torch.no_grad()
    def answer(
        self,
        question: SpatialQuestion,
        *,
        with_generator: bool = True,
        output_gates: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        streamer: TextStreamer | None = None,
        on_progress: Progress = None,
    ) -> Answer:
        """Answers by the likelihood of the options' letters, or in free text.

        Args:
            question: with its video or image.
            with_generator: False lets the VLM's own visual tokens go on unfused.
            output_gates: also return the gates of the visual tokens.
            max_new_tokens: the most that an open answer may have; a number in words may have `WORDS_TOKENS`.
            streamer: receives an open answer as it is made.
            on_progress: called with a number of frames when the generator has newly done them.

        Raises:
            ValueError: if the visual cannot be read, the question holds placeholders of visuals, or the model's logits
                are not finite.
        """
        start = time.perf_counter()
        inputs, state = self._prepared(question, with_generator, output_gates, on_progress)
        if question.options:
            answer = self._chosen(question, inputs, state)
        else:
            text = self._generated(inputs, self._limit(question, max_new_tokens), streamer=streamer)
            answer = self._split(question, replace(state, text=text))
        return replace(answer, seconds=round(time.perf_counter() - start, 3))

    def stream(
        self,
        question: SpatialQuestion,
        *,
        with_generator: bool = True,
        output_gates: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_progress: Progress = None,
    ) -> Iterator[Answer]:
        """Yields the answer as it grows, whole at the end; a choice comes at once. One who stops listening stops it.

        Arguments and errors as in `answer`.
        """
        if question.options:
            yield self.answer(
                question, with_generator=with_generator, output_gates=output_gates, on_progress=on_progress
            )
            return
        start = time.perf_counter()
        with torch.no_grad():
            inputs, state = self._prepared(question, with_generator, output_gates, on_progress)
        answer = yield from self._growing(inputs, state, self._limit(question, max_new_tokens))
        yield replace(self._split(question, answer), seconds=round(time.perf_counter() - start, 3))

    @torch.no_grad()
    def answer_batch(
        self,
        questions: Sequence[SpatialQuestion],
        max_new_tokens: int | None = None,
        *,
        with_generator: bool = True,
    ) -> list[RawAnswer]:
        """Answers questions together, with padding on the left; each as if it were asked alone, but for rounding.

        Questions about one clip share the language model's pass over its tokens, unless the fusion reads the question.

        Args:
            questions: those without a visual are asked blind, by their words alone.
            max_new_tokens: the most that an answer may have; `BARE_TOKENS` by default, and `WORDS_TOKENS` of a model
                that answers in words.
            with_generator: as in `answer`.

        Returns:
            For each the text as the model wrote it, also for a choice, without what it stands on; and the probability
            of each letter, or None.
        """
        questions = [self.posed(question) for question in questions]
        clips = [
            None
            if question.visual is None
            else self.encode(question, with_generator=with_generator, with_semantic=not with_generator)
            for question in questions
        ]
        answers: dict[int, RawAnswer] = {}
        for numbers, inputs in self._batches(questions, clips, with_generator):
            answered = self._raw_answers([questions[number] for number in numbers], inputs, max_new_tokens)
            answers.update(zip(numbers, answered, strict=True))
        return [answers[number] for number in range(len(questions))]

    def _batches(
        self, questions: Sequence[SpatialQuestion], clips: Sequence[EncodedClip | None], with_generator: bool
    ) -> Iterator[tuple[list[int], dict]]:
        """Questions by number, with their inputs: those that share a clip's pass together, then all others."""
        by_clip: dict[int, list[int]] = {}
        for number, clip in enumerate(clips):
            by_clip.setdefault(id(clip), []).append(number)
        others: list[int] = []
        for numbers in by_clip.values():
            asked, clip = [questions[number] for number in numbers], clips[numbers[0]]
            tokens = None if clip is None else self._tokens_of_all(clip, with_generator)
            if clip is None or tokens is None or len(asked) == 1 or any(question.points for question in asked):
                others += numbers
                continue
            prompts = [self._prompt(question, clip) for question in asked]
            yield numbers, shared_inputs(self.model, self.processor, prompts, clip, tokens)
        if others:
            shown = [clips[number] for number in others]
            yield others, self._inputs([questions[number] for number in others], shown, with_generator)[0]

    def _tokens_of_all(self, clip: EncodedClip, with_generator: bool) -> ModelOutput | None:
        """The visual tokens that all questions about a clip see; None if they depend on the question."""
        is_fused = with_generator and self.model.config.fusion != "none"
        return clip.fused if is_fused else clip.semantic

    def _raw_answers(
        self, questions: Sequence[SpatialQuestion], inputs: dict, max_new_tokens: int | None
    ) -> list[RawAnswer]:
        """What `answer_batch` returns, for the inputs of the language model."""
        limit = self.answer_tokens if max_new_tokens is None else max_new_tokens
        generated = self._generate(inputs, limit, output_logits=True, return_dict_in_generate=True)
        new_tokens = generated.sequences[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new_tokens, skip_special_tokens=True)
        answers: list[RawAnswer] = []
        for row, (question, text) in enumerate(zip(questions, texts, strict=True)):
            letters = self._letters(question, generated, row, new_tokens[row]) if question.options else None
            is_reasoned = self.model.config.answers_in_words and asks_little(question)
            answers.append((reason_and_answer(text)[1] if is_reasoned else text, letters))
        return answers

    def _letters(self, question: SpatialQuestion, generated: Any, row: int, tokens: torch.Tensor) -> dict[str, float]:
        """Probability of each option's letter where it is said: at once, or of an answer in words at its end.

        `generated` is what `generate` returns with logits, `tokens` int[L] what it wrote in this row.
        """
        tokenizer, place, space = self.processor.tokenizer, 0, ""
        if self.model.config.answers_in_words:
            written = [
                number for number, token in enumerate(tokens.tolist()) if token not in tokenizer.all_special_ids
            ]
            place, space = (written[-1], " ") if len(written) > 1 else (0, "")
        spelled = [f"{space}{letter}" for letter in question.letters]
        found = letter_probabilities(generated.logits[place][row], spelled, tokenizer)
        return dict(zip(question.letters, found.values(), strict=True))

    def _limit(self, question: SpatialQuestion, max_new_tokens: int) -> int:
        """Tokens of an open answer: a number in words is said to its end."""
        is_reasoned = self.model.config.answers_in_words and asks_little(question)
        return max(WORDS_TOKENS, max_new_tokens) if is_reasoned else max_new_tokens

    def _split(self, question: SpatialQuestion, answer: Answer) -> Answer:
        """The answer with what it stands on by itself, if the model says it."""
        if not (self.model.config.answers_in_words and asks_little(question)):
            return answer
        reason, text = reason_and_answer(answer.text)
        return replace(answer, text=text, reason=reason)

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

    def _prepared(
        self, question: SpatialQuestion, with_generator: bool, output_gates: bool, on_progress: Progress
    ) -> tuple[dict, Answer]:
        """Inputs of the language model, and the answer before it has a text."""
        notice = " ".join(notices(self.model.config, question))
        question = self.posed(question)
        clip = self.encode(
            question, with_generator=with_generator, with_semantic=not with_generator, on_progress=on_progress
        )
        inputs, [gates] = self._inputs([question], [clip], with_generator)
        return inputs, Answer(
            notice=notice or None,
            frame_seconds=None if clip.seconds is None else [round(second, 3) for second in clip.seconds],
            gates=gates if output_gates else None,
        )

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

    def _chosen(self, question: SpatialQuestion, inputs: dict, state: Answer) -> Answer:
        if self.model.config.answers_in_words:
            generated = self._generate(inputs, WORDS_TOKENS, output_logits=True, return_dict_in_generate=True)
            tokens = generated.sequences[0, inputs["input_ids"].shape[1] :]
            options = self._letters(question, generated, 0, tokens)
            state = replace(
                state, reason=reason_and_answer(self.processor.decode(tokens, skip_special_tokens=True))[0]
            )
        else:
            logits = self.model(**inputs, logits_to_keep=1).logits[0, -1]  # float[V]
            options = letter_probabilities(logits, question.letters, self.processor.tokenizer)
        best = max(options, key=options.__getitem__)
        return replace(state, text=f"{best}. {question.options[question.letters.index(best)]}", options=options)

    def _generate(self, inputs: dict, max_new_tokens: int, **options: Any):
        """Token ids int[1, L] of prompt and answer, or what else `options` ask for."""
        greedy: dict[str, Any] = {"max_new_tokens": max_new_tokens, "num_beams": 1, "do_sample": False}
        checks = LogitsProcessorList([CheckedLogits()])
        return self.model.generate(**inputs, **greedy, logits_processor=checks, **options)

    def _generated(self, inputs: dict, max_new_tokens: int, **options: Any) -> str:
        tokens = self._generate(inputs, max_new_tokens, **options)[0, inputs["input_ids"].shape[1] :]
        return self.processor.decode(tokens, skip_special_tokens=True).strip()

    def _growing(self, inputs: dict, state: Answer, max_new_tokens: int):
        """Yields the answer piece by piece, and returns it whole."""
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        stop = StopOnRequest()

        def generate() -> str:
            try:
                criteria = StoppingCriteriaList([stop])
                return self._generated(inputs, max_new_tokens, streamer=streamer, stopping_criteria=criteria)
            finally:
                streamer.end()

        with ThreadPoolExecutor(1) as worker:
            made = worker.submit(generate)
            try:
                for piece in streamer:
                    state = replace(state, text=state.text + piece)
                    yield state
            finally:
                stop.requested.set()
            return replace(state, text=made.result())


def asks_little(question: SpatialQuestion) -> bool:
    """Whether the answer is a choice or a number, and no free text."""
    return bool(question.options) or question.is_numeric


class StopOnRequest(StoppingCriteria):
    """Ends `generate` after the token that it is making, once it is requested."""

    def __init__(self):
        self.requested = Event()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        return torch.full((len(input_ids),), self.requested.is_set(), device=input_ids.device)


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
