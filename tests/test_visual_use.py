"""Every door of the library sees the clip: two clips, two answers; with a closed gate, those of the plain VLM."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, DynamicCache, pipeline

from tiny_checkpoints import VLM_PROCESSORS, save_checkpoint
from vega3d.demo.compare import Comparer
from vega3d.evaluation.answerers import ModelAnswerer
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.features.cache import FeatureCache
from vega3d.hub.load import load_vega
from vega3d.inference.answer import letter_probabilities
from vega3d.inference.session import Session
from vega3d.questions import SpatialQuestion
from vega3d.video_files import write_video

OPTIONS = ["the bed", "the shelf", "the lamp"]


@dataclass(frozen=True)
class Asked:
    """A model, its processor, the question about one clip, and where a door may write."""

    model: Any
    processor: Any
    question: SpatialQuestion
    folder: Path

    def inputs(self) -> dict:
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
        return dict(self.processor.apply_chat_template(self.question.messages(), **options))

    def letters(self, logits: torch.Tensor) -> torch.Tensor:
        return values(letter_probabilities(logits, self.question.letters, self.processor.tokenizer))


class FirstScores:
    """Keeps the logits of the first new token."""

    def __init__(self):
        self.seen: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seen.append(scores.clone())
        return scores


def values(probabilities: dict[str, float]) -> torch.Tensor:
    return torch.tensor([probabilities[letter] for letter in sorted(probabilities)])


def embedded(model, inputs: dict) -> dict:
    inputs = dict(inputs)
    return {"inputs_embeds": model.get_input_embeddings()(inputs.pop("input_ids")), **inputs}


def next_token(model, inputs: dict, **options) -> torch.Tensor:
    return model(**inputs, **options, logits_to_keep=1).logits[0, -1]


def generated(model, inputs: dict) -> torch.Tensor:
    options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    return model.generate(**inputs, **options).logits[0][0]


def of_model(asked: Asked) -> torch.Tensor:
    return asked.model.model(**asked.inputs()).last_hidden_state[0, -1]


def of_plain_model(plain, asked: Asked, inputs: dict) -> torch.Tensor:
    return plain.base_model(**inputs).last_hidden_state[0, -1]


def of_pipeline(asked: Asked) -> torch.Tensor:
    first = FirstScores()
    answerer = pipeline(
        "image-text-to-text", model=asked.model, processor=asked.processor, tokenizer=asked.processor.tokenizer
    )
    answerer(text=asked.question.messages(), generate_kwargs={"logits_processor": [first]}, max_new_tokens=1)
    return first.seen[0][0]


def annotated(visual, question: SpatialQuestion) -> AnnotatedQuestion:
    place = {"id": "0", "dataset": "clips", "scene": "clip", "question_type": "object_rel_distance"}
    return AnnotatedQuestion(visual, question.question, question.options, **place)


def of_evaluator(asked: Asked) -> torch.Tensor:
    question = asked.question
    record = annotated(question.visual, question)
    return values(ModelAnswerer(asked.model, asked.processor, "tiny").answer([record])[0][1] or {})


def of_plain_evaluator(plain, asked: Asked, inputs: dict) -> torch.Tensor:
    question = asked.question
    record = annotated(None, question)
    prompt = Asked(asked.model, asked.processor, SpatialQuestion(question.visual, record.prompt), asked.folder)
    return asked.letters(next_token(plain, without_generator(prompt.inputs())))


def of_demo(asked: Asked, side: str) -> torch.Tensor:
    *_, state = Comparer(Session(asked.model, asked.processor)).compare(asked.question)
    return values(getattr(state, side).options)


def of_encoded(asked: Asked) -> torch.Tensor:
    inputs = asked.inputs()
    return next_token(asked.model, inputs, mm_encoder_outputs=asked.model.encode(**inputs).mm_encoder_outputs)


def of_cache(asked: Asked) -> torch.Tensor:
    inputs = FeatureCache(asked.folder / "features").fill(asked.model, asked.inputs())
    assert "generator_hidden_states" in inputs and "generator_pixel_values_videos" not in inputs
    return next_token(asked.model, inputs)


Door = Callable[[Asked], torch.Tensor]
Plain = Callable[[Any, Asked, dict], torch.Tensor]
DOORS: dict[str, tuple[Door, Plain]] = {
    "VegaModel.forward": (of_model, of_plain_model),
    "forward": (
        lambda asked: next_token(asked.model, asked.inputs()),
        lambda plain, asked, inputs: next_token(plain, inputs),
    ),
    "forward with a cache": (
        lambda asked: next_token(asked.model, asked.inputs(), past_key_values=DynamicCache()),
        lambda plain, asked, inputs: next_token(plain, inputs, past_key_values=DynamicCache()),
    ),
    "forward with embeddings": (
        lambda asked: next_token(asked.model, embedded(asked.model, asked.inputs())),
        lambda plain, asked, inputs: next_token(plain, embedded(plain, inputs)),
    ),
    "forward on encoded visuals": (
        of_encoded,
        lambda plain, asked, inputs: next_token(plain, inputs),
    ),
    "generate": (
        lambda asked: generated(asked.model, asked.inputs()),
        lambda plain, asked, inputs: generated(plain, inputs),
    ),
    "generate with embeddings": (
        lambda asked: generated(asked.model, embedded(asked.model, asked.inputs())),
        lambda plain, asked, inputs: generated(plain, embedded(plain, inputs)),
    ),
    "pipeline": (of_pipeline, lambda plain, asked, inputs: generated(plain, inputs)),
    "session": (
        lambda asked: values(Session(asked.model, asked.processor).answer(asked.question).options or {}),
        lambda plain, asked, inputs: asked.letters(next_token(plain, inputs)),
    ),
    "session with a cache": (
        lambda asked: values(
            Session(asked.model, asked.processor, cache=FeatureCache(asked.folder / "features"))
            .answer(asked.question)
            .options
            or {}
        ),
        lambda plain, asked, inputs: asked.letters(next_token(plain, inputs)),
    ),
    "evaluator": (of_evaluator, of_plain_evaluator),
    "demo": (
        lambda asked: of_demo(asked, "fused"),
        lambda plain, asked, inputs: asked.letters(next_token(plain, inputs)),
    ),
    "cached features": (of_cache, lambda plain, asked, inputs: next_token(plain, inputs)),
}


def without_generator(inputs: dict) -> dict:
    return {name: value for name, value in inputs.items() if not name.startswith("generator_")}


def aligned(model):
    """Weights at round addresses: products of one row round by where a file has put them."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.eval()


@pytest.fixture(scope="module", params=VLM_PROCESSORS)
def loaded(request, tmp_path_factory):
    """The model with an open and with a closed gate, its processor, and the plain VLM."""
    folder = tmp_path_factory.mktemp("doors")
    model, processor = load_vega(save_checkpoint(folder, request.param), device="cpu")
    closed, _ = load_vega(folder / "model", device="cpu")
    closed.model.fusion.residual_scale.data.zero_()
    plain = AutoModelForImageTextToText.from_pretrained(folder / "vlm")
    return aligned(model), aligned(closed), processor, aligned(plain)


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> list[SpatialQuestion]:
    """The same question about two clips."""
    folder, random = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    paths = [folder / "first.mp4", folder / "second.mp4"]
    for path in paths:
        write_video(path, random.integers(0, 256, (4, 48, 64, 3), dtype=np.uint8), fps=4)
    return [SpatialQuestion(path, "What is nearest?", OPTIONS) for path in paths]


@pytest.mark.parametrize("door", DOORS)
@torch.no_grad()
def test_a_door_sees_the_clip_as_the_plain_vlm_does(loaded, questions, door, tmp_path):
    model, closed, processor, plain = loaded
    ours, theirs = DOORS[door]
    plain.base_model.rope_deltas = None  # from embeddings the VLM would count on from the prompt before

    seen = [ours(Asked(model, processor, question, tmp_path)) for question in questions]
    asked = Asked(closed, processor, questions[0], tmp_path)
    expected = theirs(plain, asked, without_generator(asked.inputs()))

    assert seen[0].isfinite().all()
    assert not torch.equal(*seen)
    assert torch.equal(ours(asked), expected)
    assert not torch.equal(seen[0], expected)


@torch.no_grad()
def test_the_demo_without_the_simulator_is_the_plain_vlm(loaded, questions, tmp_path):
    model, _, processor, plain = loaded
    for question in questions:
        asked = Asked(model, processor, question, tmp_path)

        semantic = of_demo(asked, "semantic")

        assert torch.equal(semantic, asked.letters(next_token(plain, without_generator(asked.inputs()))))
