"""A fused model as a model of lmms-eval, which imports this module by the entry point of `lmms_eval_entry`."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from vega3d.configs import check_count
from vega3d.hub.load import load
from vega3d.inference.session import MAX_NEW_TOKENS, asks_little
from vega3d.questions import SpatialQuestion

PARAGRAPH = "\n\n"  # stands in `until` of every task that names no end of its own, and ends no answer
GREEDY = {"temperature": (0, None), "do_sample": (False, None), "num_beams": (1, None)}


class Request(NamedTuple):
    """One answer that a task of lmms-eval wants."""

    question: SpatialQuestion
    max_new_tokens: int
    until: tuple[str, ...]


class LmmsEvalModel(lmms):
    """Answers questions of lmms-eval's tasks about one video or image each, greedily, as `vega3d evaluate` does.

    Prompts in VSI-Bench's words are known for choices and numbers (`SpatialQuestion.of_prompt`), so that a model that
    answers in words is read as in `vega3d evaluate`. Questions on one video are answered one after another.

    Args:
        pretrained: `vega3d-tiny` (embedded), a folder, or a Hub id.
        batch_size: questions answered at a time.
        max_batch_size: not used: nothing is tried out.
        device: by default a GPU if there is one, else the CPU; of several processes each has its own.
        num_frames: frames sampled evenly; the processor's default if neither this nor `fps` is given.
        fps: frames sampled a second instead.
        four_bit: quantise the language model to 4 bits.
        cache: folder in which the generator's features are looked up and stored.

    Raises:
        ValueError: as `vega3d.load`, or if the batch size is no number from 1 up.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "vega3d-tiny",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        four_bit: bool = False,
        cache: str | None = None,
    ):
        super().__init__()
        if not str(batch_size).isdigit():
            raise ValueError(f"The batch size is {batch_size!r}, but must be a number from 1 up.")
        self.batch_size = int(batch_size)
        check_count("batch_size", self.batch_size)
        state = PartialState()
        place = state.device if state.num_processes > 1 else device
        self.session = load(pretrained, four_bit=four_bit, device=place, cache=cache, num_frames=num_frames, fps=fps)

    @property
    def device(self) -> torch.device:
        return self.session.model.device

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The answers, in the order of the requests; raises ValueError for what a session cannot be asked."""
        asked = [self.request(instance) for instance in requests]
        texts = [""] * len(asked)
        with tqdm(total=len(asked), desc="vega3d", disable=self.rank != 0) as bar:
            for places in batches(asked, self.batch_size):
                questions = [asked[place].question for place in places]
                answers = self.session.answer_batch(questions, asked[places[0]].max_new_tokens)
                for place, (text, _) in zip(places, answers, strict=True):
                    texts[place] = cut(text, asked[place].until)
                    self.cache_hook.add_partial("generate_until", requests[place].args[:2], texts[place])
                bar.update(len(places))
        return texts

    def request(self, instance: Instance) -> Request:
        """What an instance asks, with the task's limits; a choice or a number in words is said to its end."""
        _, to_messages, settings, number, task, split = instance.args
        try:
            question = question_of(to_messages(self.task_dict[task][split][number]))
            max_new_tokens, until = limits(settings)
        except ValueError as error:
            raise ValueError(f"Task {task}, row {number}: {error}") from error
        if self.session.model.config.answers_in_words and asks_little(question):
            max_new_tokens = max(max_new_tokens, self.session.answer_tokens)
        return Request(question, max_new_tokens, until)

    def loglikelihood(self, requests: Sequence[Instance]) -> list:
        raise NotImplementedError("vega3d answers in text. Choose a task with `output_type: generate_until`.")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list:
        raise NotImplementedError("vega3d answers once. Choose a task with `output_type: generate_until`.")


def question_of(messages: Sequence[Mapping]) -> SpatialQuestion:
    """The question of a conversation; raises ValueError unless it is one turn, at most one visual and then text."""
    content = [part for message in messages for part in message["content"]]
    kinds = [part["type"] for part in content]
    visual, text = content[0], content[-1]
    if (
        len(messages) != 1
        or messages[0]["role"] != "user"
        or kinds not in (["video", "text"], ["image", "text"], ["text"])
    ):
        raise ValueError(
            f"it has {len(messages)} messages with {', '.join(kinds)}, but vega3d is asked by one message with one "
            "video or image, and then text."
        )
    if visual.get("start_time") is not None or visual.get("end_time") is not None:
        raise ValueError("it asks about a part of a video. Cut the video, and ask about the whole.")
    return SpatialQuestion.of_prompt(visual.get("url"), text["text"], is_image=kinds[0] == "image")


def limits(settings: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    """`max_new_tokens` and `until` of a task; raises ValueError if it does not want the likeliest answer."""
    wrong = [f"{name}={settings[name]!r}" for name, good in GREEDY.items() if settings.get(name) not in good]
    if wrong:
        raise ValueError(
            f"its generation_kwargs have {', '.join(wrong)}, but vega3d answers greedily. Leave them out."
        )
    until = settings.get("until") or ()
    ends = (until,) if isinstance(until, str) else tuple(until)
    return int(settings.get("max_new_tokens", MAX_NEW_TOKENS)), tuple(end for end in ends if end and end != PARAGRAPH)


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of some ends."""
    for end in until:
        text = text.split(end)[0]
    return text


def batches(asked: Sequence[Request], size: int) -> Iterator[list[int]]:
    """Places of requests that are answered together: of equal limits, those on one visual one after another."""

    def limit(place: int) -> int:
        return asked[place].max_new_tokens

    first: dict[str, int] = {}
    for place, request in enumerate(asked):
        first.setdefault(str(request.question.visual), place)
    ordered = sorted(range(len(asked)), key=lambda place: (limit(place), first[str(asked[place].question.visual)]))
    for _, group in groupby(ordered, limit):
        places = list(group)
        yield from (places[start : start + size] for start in range(0, len(places), size))
