"""A request for a chat completion, read and checked: every option is used, or refused by its name."""

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vega3d.serving.settings import ApiError

MAX_VISUALS = 16
MAX_CHARACTERS = 1_000_000  # of all texts of a conversation; what the model takes is far less
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 1000
SEEDS = 2**63
# Values of unsupported options that ask for nothing; some clients send them always.
NEUTRAL: dict[str, tuple] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "store": (False,),
    "tools": ([],),
    "logit_bias": ({},),
}


class Strict(BaseModel):
    """Fields of their own types alone, and no others."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Address(Strict):
    """Where a visual is; `detail` is OpenAI's, whose only value here is its default."""

    url: Annotated[str, Field(min_length=1)]
    detail: Literal["auto"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def of_one(cls, value: Any) -> Any:
        if isinstance(value, list):
            raise ValueError(f"there are {len(value)} visuals, but a part holds one. Give each a part of its own.")
        return value


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: Address


class VideoPart(Strict):
    """A video, which OpenAI's format lacks; the name is that of transformers and of other servers."""

    type: Literal["video_url"]
    video_url: Address


class Message(Strict):
    """What one side says; text alone counts as one part."""

    @field_validator("content", mode="before", check_fields=False)
    @classmethod
    def parts(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content

    @property
    def texts(self) -> list[str]:
        return [part.text for part in self.content if isinstance(part, TextPart)]  # type: ignore[attr-defined]


class UserMessage(Message):
    role: Literal["user"]
    content: list[Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]]


class OtherMessage(Message):
    role: Literal["system", "assistant"]
    content: list[TextPart]


class StreamOptions(Strict):
    include_usage: bool = False


class Visual(NamedTuple):
    """An image or a video of a request, and its place there for messages."""

    kind: Literal["image", "video"]
    url: str
    place: str


class ChatRequest(Strict):
    """The body of a request; names and meanings are OpenAI's."""

    model: str
    messages: Annotated[list[Annotated[UserMessage | OtherMessage, Field(discriminator="role")]], Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]] = []
    seed: Annotated[int, Field(ge=-SEEDS, lt=SEEDS)] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def listed(cls, stop: Any) -> Any:
        stops = [stop] if isinstance(stop, str) else stop
        if isinstance(stops, list) and len(stops) > MAX_STOPS:
            raise ValueError(f"stop has {len(stops)} texts, but at most {MAX_STOPS} are taken. Leave some out.")
        return stops

    @model_validator(mode="after")
    def fit(self) -> "ChatRequest":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is given without stream. Set stream, or leave it out.")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ. Give one of them.")
        if self.top_p not in (None, 1) and self.temperature is None:
            raise ValueError("top_p is given without temperature, and answers are greedy then. Give a temperature.")
        if self.messages[-1].role != "user":
            raise ValueError("The last message must be the user's. Put the question there.")
        if not any(text.strip() for text in self.messages[-1].texts):
            raise ValueError("The last message has no text. Ask something.")
        length = sum(len(text) for message in self.messages for text in message.texts)
        if length > MAX_CHARACTERS:
            raise ValueError(
                f"The texts have {length} characters, but at most {MAX_CHARACTERS} are taken. Shorten them."
            )
        count = len(list(self.visuals))
        if count > MAX_VISUALS:
            raise ValueError(f"There are {count} images and videos, but at most {MAX_VISUALS} are taken.")
        return self

    @property
    def limit(self) -> int | None:
        """The most new tokens, if the request says so."""
        return self.max_tokens if self.max_tokens is not None else self.max_completion_tokens

    @property
    def visuals(self) -> Iterator[Visual]:
        """Images and videos, in the order of the conversation."""
        for number, message in enumerate(self.messages):
            for place, part in enumerate(message.content):
                where = f"messages[{number}].content[{place}]"
                if isinstance(part, ImagePart):
                    yield Visual("image", part.image_url.url, where)
                elif isinstance(part, VideoPart):
                    yield Visual("video", part.video_url.url, where)


def read_request(body: Any, reserved: frozenset[str]) -> ChatRequest:
    """The request in a JSON value; `reserved` are tokens that no text of a client may hold.

    Raises:
        ApiError: 400, which names the field.
    """
    if not isinstance(body, dict):
        raise ApiError(400, f"The body is a JSON {type(body).__name__}, but must be an object.")
    body = {name: value for name, value in body.items() if value is not None and not is_neutral(name, value)}
    try:
        request = ChatRequest.model_validate(body)
    except ValidationError as error:
        raise refusal(error) from error
    for number, message in enumerate(request.messages):
        for text in message.texts:
            check_text(text, reserved, f"messages[{number}]")
    return request


def is_neutral(name: str, value: Any) -> bool:
    return any(value == neutral and type(value) in (type(neutral), int, float) for neutral in NEUTRAL.get(name, ()))


def check_text(text: str, reserved: frozenset[str], place: str) -> None:
    """Raises ApiError for text that holds half characters, or tokens that would stand for more than text."""
    if re.search("[\ud800-\udfff]", text):
        raise ApiError(400, f"{place} holds half of a character. Write it again.", param=place)
    for token in reserved:
        if token in text:
            raise ApiError(
                400,
                f"{place} holds {token!r}, which stands for no text in this model's prompts. Reword it; images and "
                "videos go into parts of type image_url and video_url.",
                "reserved_token",
                place,
            )


def refusal(error: ValidationError) -> ApiError:
    """The first fault of a request, in one sentence."""
    first = error.errors(include_url=False, include_input=True)[0]
    # After the number of a message or a part pydantic names its role or type, which is no field.
    steps = [
        step
        for before, step in pairwise([None, *first["loc"]])
        if not isinstance(before, int) or isinstance(step, int)
    ]
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")[:200]
    if first["type"] == "extra_forbidden":
        allowed = " or give its default" if place in NEUTRAL else ""
        words = f"The option {place!r} is not supported. Leave it out{allowed}."
        return ApiError(400, words, "unsupported_parameter", place)
    if first["type"] == "missing":
        return ApiError(400, f"{place} is missing. Give it.", "missing_required_parameter", place)
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    if first["type"] == "value_error":
        message = f"{place}: {message}" if "." in place else message  # an option names itself
        return ApiError(400, f"{message}.", "invalid_value", place or None)
    shown = repr(first["input"])
    got = f", but is {shown}" if len(shown) < 100 else ""
    return ApiError(400, f"{place}: {message}{got}.", "invalid_value", place)


def finite(text: str) -> float:
    """A number of JSON; raises ValueError for one beyond all floats, and for NaN."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:50]} is no finite number")
    return value
