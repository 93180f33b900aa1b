"""The model that the package ships, as what it is: its files, its answers, its examples. Only these tests may change
when another one is shipped, with those of the README and of the known questions, and `test_embedded_of_the_study.py`.
"""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import vega3d
from command_line import answer
from vega3d import VegaConfig, VegaForSpatialReasoning, VegaProcessor
from vega3d.demo.examples import CATEGORIES, load_examples, read_scores, scores_text
from vega3d.hub.load import load_vega
from vega3d.inference.session import Session
from vega3d.questions import KnownQuestions, SpatialQuestion
from vega3d.shipped import ASSETS

MODEL = ASSETS / "vega3d-tiny"
MAKEFILE, README = (Path(__file__).parents[1] / name for name in ("Makefile", "README.md"))
EXAMPLES = json.loads((ASSETS / "clips" / "questions.json").read_text())
CLOSEST = next(row for row in EXAMPLES if row["question_type"] == "object_rel_distance")  # about the clip `room`


def test_sizes_of_the_assets():
    files = [file for file in ASSETS.rglob("*") if file.is_file()]
    sizes = {str(file.relative_to(ASSETS)): file.stat().st_size for file in files}
    model = [size for name, size in sizes.items() if name.startswith("vega3d-tiny/")]
    policy = [size for name, size in sizes.items() if name.startswith("vega3d-metaworld/")]
    clips = [size for name, size in sizes.items() if name.endswith(".mp4")]

    assert sum(model) < 25e6 and max(model) < 16e6
    assert sum(sizes.values()) - sum(model) - sum(policy) < 3.3e6
    assert (
        sizes["furniture/furniture_cc0.npz.xz"] < 3e6 and sizes["text_prior.json.xz"] < 3e5
    )  # it knows grounding, too
    assert len(clips) == 3 and max(clips) < 300_000
    assert not list(ASSETS.rglob("*.py"))
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pkl", ".ckpt")]


def test_it_is_loaded_by_its_name():
    model, processor = load_vega("vega3d-tiny", device="cpu")

    assert isinstance(model, VegaForSpatialReasoning) and isinstance(processor, VegaProcessor)
    assert not model.training
    assert str(model.dtype) == f"torch.{json.loads((MODEL / 'config.json').read_text())['dtype']}"


NEAR_TIE = 2e-3  # of logits in float32, whose sums differ by less from processor to processor


def test_the_card_has_its_scores_and_the_answers_to_the_examples():
    """Of the clip `room`: what is stored, right or wrong, is what is answered, where no two answers are as likely."""
    scores = read_scores(MODEL)
    session = vega3d.load(device="cpu")
    examples = load_examples(KnownQuestions.from_config(session.model.config.questions), scores)
    stored = {(row["clip"], row["category"]): row for row in scores.examples}
    assert set(stored) == {(clip, name) for clip, by_category in examples.items() for name in by_category}

    clear = 0
    for name, example in examples["room"].items():
        asked = SpatialQuestion(
            "room",
            example.question,
            example.options,
            is_numeric=not example.options,
            frame=example.frame,
            marks=example.marks,
        )
        for kind in ("model", "off"):
            with recorded_logits(session) as logits:
                given = session.answer(asked, with_generator=kind == "model")
            if are_clear(logits):
                clear += 1
                assert given.text == stored["room", name][kind], (name, kind)
        assert stored["room", name]["right"] == example.right

    assert clear >= len(examples["room"])  # half of the answers, with the generator and without
    assert scores_text(scores) in (MODEL / "README.md").read_text()


@contextmanager
def recorded_logits(session: Session) -> Iterator[list[torch.Tensor]]:
    """float[V] of each token that is generated meanwhile."""
    steps: list[torch.Tensor] = []
    head = session.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, inputs, output: steps.append(output[0, -1].float()))
    try:
        yield steps
    finally:
        hook.remove()


def are_clear(logits: list[torch.Tensor]) -> bool:
    """Whether no token of an answer leads by so little that another processor might write another one."""
    leads = [float(first - second) for first, second in (step.topk(2).values for step in logits)]
    return min(leads) > NEAR_TIE


def test_three_lines_give_the_answer_that_is_stored():
    session = vega3d.load(device="cpu")

    given = session.ask("room", CLOSEST["question"], options=CLOSEST["options"])

    assert given.text == stored_answer("Which is closest")


def test_the_question_of_make_ask_is_that_of_the_readme_and_its_answer_is_stored():
    options = shlex.join(CLOSEST["options"]).replace("'", '"')
    asked = f'ask room "{CLOSEST["question"]}" --options {options}\n'
    assert asked in MAKEFILE.read_text() and asked in README.read_text()

    text = answer("room", CLOSEST["question"], "--options", *CLOSEST["options"], model="vega3d-tiny")["text"]

    assert text == stored_answer("Which is closest")
    assert f"\n{text}\n(" in README.read_text()


def stored_answer(category: str) -> str:
    """What the model answers to the example about the clip `room`, as its folder has it."""
    rows = read_scores(MODEL).examples
    return next(row["model"] for row in rows if (row["clip"], row["category"]) == ("room", category))


def test_examples_are_of_trained_questions_and_in_the_order_of_the_scores():
    known = KnownQuestions.from_config(VegaConfig.from_pretrained(MODEL).questions)
    scores = read_scores(MODEL)
    leads = {name: scores.lead(question_type) for name, question_type in CATEGORIES.items()}
    assert set(scores.columns) >= {"model", "off", "constant"} and scores.rooms == 100

    for by_category in load_examples(known, scores).values():
        assert set(by_category) >= set(CATEGORIES) - {"Which box"}
        assert list(by_category) == sorted(by_category, key=lambda name: -leads[name])
