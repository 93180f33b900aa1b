"""`Session`: a loaded model that encodes each clip once and answers many questions about it."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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

from vega3d.inference.answer import Answer, CheckedLogits, letter_probabilities, notices
from vega3d.inference.clip_encoder import ClipEncoder, Progress
from vega3d.inference.encoding import EncodedClip
from vega3d.inference.shared_pass import shared_inputs
from vega3d.questions import Mark, RawAnswer, SpatialQuestion, reason_and_answer

MAX_NEW_TOKENS = 64  # of an open answer
BARE_TOKENS, WORDS_TOKENS = 16, 128  # of a choice or a number: bare, as VSI-Bench allows, and with what it stands on


class Session(ClipEncoder):
    """Answers questions about videos and images with one loaded model.

    The first question about a clip costs a pass of the generator and of the vision tower; what comes out is held in
    memory, and further questions cost the language model alone. Answers are greedy, so the same question has the same
    answer. Arguments and errors are those of `ClipEncoder`.

    Example:

    ```python
    session = vega3d.load("vega3d-tiny")
    answer = session.ask("room", "Where is the bed, from the first frame?")
    print(answer.text, answer.notice)
    ```
    """

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
