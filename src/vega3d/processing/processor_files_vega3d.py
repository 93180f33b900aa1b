"""What the files of a processor must say, checked when they are loaded: sizes, statistics, chat template."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2

REMEDY = "Copy the processor's files of this VLM again."
LARGEST_EDGE = 1024  # [px]
MOST_PIXELS = 1 << 31
PROBES = (
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}],
    [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Where?"}]}],
)


@contextlib.contextmanager
def value_errors(what: str, remedy: str = REMEDY) -> Iterator[None]:
    """Whatever a library raises about files of the wrong kind is a ValueError; OSError stays, as it is documented.

    Args:
        what: is read in the block.
        remedy: ends the error.
    """
    try:
        yield
    except (ValueError, OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{what} cannot be read: {type(error).__name__}: {error}. {remedy}") from error


@contextlib.contextmanager
def template_errors() -> Iterator[None]:
    """A chat template that is broken, or does what its sandbox refuses, is a ValueError."""
    try:
        yield
    except jinja2.TemplateError as error:
        raise ValueError(
            f"The chat template cannot be used: {type(error).__name__}: {error}. {REMEDY} Or give another one."
        ) from error


def check_template(processor: Any) -> None:
    """Raises ValueError unless the chat template renders a question about an image and one about a video."""
    if processor.chat_template is None:
        return
    templates = processor.chat_template
    for name in templates if isinstance(templates, Mapping) else [None]:
        for conversation in PROBES:
            try:
                processor.apply_chat_template(conversation, chat_template=name, add_generation_prompt=True)
            except Exception as error:  # a template can do anything that an expression of Python can
                raise ValueError(
                    f"The chat template cannot be used: {type(error).__name__}: {error}. {REMEDY}"
                ) from error


def check_vlm_parts(processor: Any) -> None:
    """Raises ValueError unless the parts of a processor that are the VLM's can be used."""
    check_pixels("image_processor", processor.image_processor.to_dict())
    check_pixels("video_processor", processor.video_processor.to_dict())
    check_template(processor)


def check_pixels(name: str, values: Mapping[str, Any]) -> None:
    """Raises ValueError unless pictures can be cut into patches and normalised as a sub-processor says.

    Args:
        name: `image_processor` or `video_processor`.
        values: its settings.
    """
    for field in ("patch_size", "merge_size", "temporal_patch_size"):
        require(is_count(values.get(field), LARGEST_EDGE), name, field, values.get(field), f"in [1, {LARGEST_EDGE}]")
    for field in ("image_mean", "image_std"):
        given: Any = values.get(field)
        fits = isinstance(given, (list, tuple)) and len(given) == 3 and all(is_number(value) for value in given)
        require(fits and (field == "image_mean" or min(given) > 0), name, field, given, "three finite numbers")
    factor: Any = values.get("rescale_factor")
    require(is_number(factor) and factor > 0, name, "rescale_factor", factor, "a positive number")
    size: Any = values.get("size") or {}
    smallest, largest = size.get("shortest_edge"), size.get("longest_edge")
    fits = is_count(smallest, MOST_PIXELS) and is_count(largest, MOST_PIXELS) and smallest <= largest
    require(fits, name, "size", size, "shortest_edge and longest_edge [px^2], the first not above the second")


def is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def require(condition: bool, name: str, field: str, value: Any, limit: str) -> None:
    if not condition:
        raise ValueError(f"The {name} has {field}={value!r}, but it must be {limit}. {REMEDY}")
