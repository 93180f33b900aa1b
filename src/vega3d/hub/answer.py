"""Asking a loaded model one question, by free text or by the likelihood of the options."""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from transformers import TextStreamer

from vega3d.features.cache import FeatureCache
from vega3d.known_questions import KnownQuestions
from vega3d.modeling.configuration_vega3d import VegaConfig
from vega3d.modeling.inputs_vega3d import VISUAL_INPUTS
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.questions import SpatialQuestion, checked_logits, letter_probabilities

NARROW = 1024  # channels; the smallest Qwen-VL has 2048


@dataclass(frozen=True)
class Answer:
    """
    Args:
        text: the answer; for a choice its letter and text.
        notice: what the model's config says about itself with every answer, such as "untrained", and whether the
            question is one that it was not trained on.
        options: probability of each letter among the options, or None for an open question.
        frame_seconds: times of the frames used [s], each that of a frame of the video, so their distances differ by up
            to a frame's; frame numbers where the source has no times; None for an image.
        seconds: time taken [s], from the question to the answer, without loading model or video.
        gates: float[t, h, w] on the token grid, if asked for and the fusion has a gate for each token.
    """

    text: str
    notice: str | None
    options: dict[str, float] | None
    frame_seconds: list[float] | None
    seconds: float
    gates: torch.Tensor | None = None

    def to_dict(self) -> dict:
        """Plain values for JSON, without the gates."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "gates"}


def notices(config: VegaConfig, question: SpatialQuestion) -> list[str]:
    """What to tell with an answer: the model's notice, and why this answer in particular may mean nothing.

    Raises:
        ValueError: if the config lists its questions in another shape.
    """
    known = KnownQuestions.of_config(config.questions)
    note = None if known is None else known.note(question)
    width = config.get_text_config().hidden_size
    rounded = None
    if config.to_dict().get("quantization_config") is not None and width < NARROW:
        rounded = f"A language model of {width} channels loses its words in 4 bits. Ask it without."
    return [text for text in (config.notice, note, rounded) if text]


@torch.no_grad()
def answer_question(
    model: VegaForSpatialReasoning,
    processor: VegaProcessor,
    question: SpatialQuestion,
    num_frames: int | None = None,
    fps: float | None = None,
    max_new_tokens: int = 64,
    output_gates: bool = False,
    streamer: TextStreamer | None = None,
    on_frames: Callable[[int], None] | None = None,
    cache: FeatureCache | None = None,
) -> Answer:
    """Answers greedily, so that the same question has the same answer.

    Args:
        model: loaded.
        processor: of the model.
        question: with its video or image.
        num_frames: frames sampled evenly; the processor's default if neither this nor `fps` is given.
        fps: frames sampled a second instead.
        max_new_tokens: of an open answer.
        output_gates: also return the gates of the visual tokens.
        streamer: receives an open answer as it is made.
        on_frames: called with a number of frames when the generator has done them.
        cache: of the generator's features, in which they are looked up and kept.

    Raises:
        ValueError: if the model's logits are not finite; as the processor and the model do.
    """
    told = notices(model.config, question)
    start = time.perf_counter()
    inputs = processor.apply_chat_template(
        question.messages(),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        num_frames=num_frames,
        fps=fps,
        processor_kwargs={"return_metadata": True},
    )
    metadata = inputs.pop("video_metadata", None)
    inputs = dict(inputs.to(model.device))
    if cache is not None and model.config.fusion != "none":
        inputs = cache.fill(model, inputs, on_frames)
    encoded = model.encode(**inputs, output_gates=output_gates, on_progress=on_frames)
    inputs = {name: value for name, value in inputs.items() if name not in VISUAL_INPUTS}
    inputs["mm_encoder_outputs"] = encoded.mm_encoder_outputs
    options = None
    if question.options:
        logits = model(**inputs, logits_to_keep=1).logits[0, -1]
        options = letter_probabilities(logits, question.letters, processor.tokenizer)
        best = max(options, key=options.__getitem__)
        text = f"{best}. {question.options[question.letters.index(best)]}"
    else:
        generated = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            streamer=streamer,
            logits_processor=checked_logits(),
        )
        text = processor.decode(generated[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    gates = next(iter(encoded.gates.values()))[0].float().cpu() if encoded.gates else None
    return Answer(
        text=text,
        notice=" ".join(told) or None,
        options=options,
        frame_seconds=[round(float(second), 3) for second in metadata[0].timestamps] if metadata else None,
        seconds=round(time.perf_counter() - start, 3),
        gates=gates,
    )
