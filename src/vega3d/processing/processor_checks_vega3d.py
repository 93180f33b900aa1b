"""What a processor is given, checked: the options of a call, its conversations, and its own files when they load."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jinja2
from transformers import GenerationConfig
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

PARTS = {"text_kwargs": "tokenizer", "images_kwargs": "image_processor", "videos_kwargs": "video_processor"}
_BLOCK_KEYS = {
    "text": {"text"},
    "image": {"image", "url", "path", "base64"},
    "image_url": {"image_url"},
    "video": {"video", "url", "path"},
}
_EVENLY = "Sample with `num_frames` (evenly) or `fps`; there are no bounds on the number of frames"
_BOTH_STREAMS = "Both pixel streams must show the same place: cut or pad the frames before they are given"
# Known to transformers, but without effect on Qwen's processors, or with an effect on one of the two streams only.
_REFUSED = {
    "min_frames": _EVENLY,
    "max_frames": _EVENLY,
    "do_center_crop": _BOTH_STREAMS,
    "crop_size": _BOTH_STREAMS,
    "do_pad": _BOTH_STREAMS,
    "pad_size": _BOTH_STREAMS,
    "input_data_format": "Arrays are [H, W, 3] and [T, H, W, 3] (torch also [3, H, W] and [T, 3, H, W])",
    "data_format": "The pixels come packed as patches",
}
# `pipeline` hands options of `generate` to the processor alone; these values are the usual ones, so they may pass.
_OF_GENERATION = {"do_sample": False, "num_beams": 1}
_NO_EFFECT = {"input_data_format": ("channels_last",), "do_center_crop": (False,), "do_pad": (False,)}

REMEDY = "Copy the processor's files of this VLM again."
LARGEST_EDGE = 1024  # [px]
MOST_PIXELS = 1 << 31
PROBES = (
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}],
    [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Where?"}]}],
)


def check_options(vlm: ProcessorMixin, options: Mapping[str, Any], has_images: bool, has_videos: bool) -> None:
    """Raises a ValueError if an option of a call is unknown, or has no effect on one of the two pixel streams.

    `options` are those that the fused processor hands on to the VLM's, by name; those of each part (`text_kwargs`,
    `images_kwargs`, `videos_kwargs`) in a dict.
    """
    known = {part: _known_options(vlm, part) for part in PARTS}
    flat = set().union(*known.values())
    for name, value in options.items():
        if name in PARTS or name == "common_kwargs":
            values = {} if value is None else value
            if not isinstance(values, Mapping):
                raise ValueError(f"`{name}` must be a dict of options, but got {value!r}.")
            for inner, setting in values.items():
                _check_option(inner, setting, known.get(name, flat), f" in `{name}`")
        elif name in ("audio", "audio_kwargs", "load_audio_from_video", "sampling_rate"):
            if value:
                raise ValueError(f"`{name}` is given, but sound is not read. Leave it out.")
        else:
            _check_option(name, value, flat | set(ProcessingKwargs.__annotations__), "")
            for part, is_given in (("images", has_images), ("videos", has_videos)):
                if is_given and name in flat - known["text_kwargs"] - known[f"{part}_kwargs"]:
                    raise ValueError(f"`{name}` ({value!r}) has no effect on {part}. Give it in the other's kwargs.")


def _known_options(vlm: ProcessorMixin, part: str) -> set[str]:
    taker: Any = vlm.tokenizer if part == "text_kwargs" else vlm.__dict__[PARTS[part]]
    own = set() if part == "text_kwargs" else set(taker.valid_kwargs.__annotations__)
    return own | set(ProcessingKwargs.__annotations__[part].__annotations__)


def _check_option(name: str, value: Any, known: Iterable[str], place: str) -> None:
    if name in _REFUSED and value is not None and value not in _NO_EFFECT.get(name, ()):
        raise ValueError(f"`{name}`{place} ({value!r}) is not supported. {_REFUSED[name]}.")
    if _OF_GENERATION.get(name, ...) == value:
        return
    if name in GenerationConfig().__dict__ and name not in known:
        raise ValueError(
            f"`{name}`{place} ({value!r}) is an option of `generate`, not of the processor. Give it to `generate`, or "
            "in `generate_kwargs` of a pipeline."
        )
    if name not in known:
        raise ValueError(
            f"`{name}`{place} ({value!r}) is no option of this processor. For the frames there are `num_frames`, "
            "`fps` and `do_sample_frames`; for the VLM's pixels `size` in `images_kwargs` and `videos_kwargs`."
        )


def one_of(name: str, value: Any, other: Any) -> Any:
    """The value of an option that can be given in two places; raises a ValueError if the two differ."""
    if value is not None and other is not None and value != other:
        raise ValueError(f"`{name}` is given twice, as {value!r} and as {other!r}. Give it once.")
    return other if value is None else value


def check_conversations(conversation: Any) -> None:
    """Raises a ValueError if a message holds an entry that would be ignored (see `apply_chat_template`)."""
    if not isinstance(conversation, (list, tuple)) or not conversation:
        raise ValueError(f"A conversation must be a list of messages, at least one, but got {conversation!r}.")
    for item in conversation:
        if isinstance(item, (list, tuple)):
            check_conversations(item)
        elif isinstance(item, Mapping):
            content = item.get("content")
            for block in content if isinstance(content, (list, tuple)) else ():
                _check_block(block)


def _check_block(block: Any) -> None:
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind not in _BLOCK_KEYS:
        raise ValueError(
            f"The content of a message holds an entry of type {kind!r}, but can hold {', '.join(_BLOCK_KEYS)}. Give "
            "each entry as a dict with its `type`."
        )
    given = {key for key, value in block.items() if value is not None} - {"type"}
    unknown = sorted(given - _BLOCK_KEYS[kind], key=str)
    if unknown:
        raise ValueError(
            f"An entry of type {kind!r} in a message holds {', '.join(map(repr, unknown))}, which would have no "
            "effect. Give options for all videos of a call instead: `apply_chat_template(..., fps=...)` or "
            "`num_frames=...`; cut a film to the part that is asked about before it is given."
        )
    if len(given) > 1:
        raise ValueError(
            f"An entry of type {kind!r} in a message holds {len(given)} {kind}s "
            f"({', '.join(sorted(given))}). Give one, for example as `{kind}`."
        )


# --- Files -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def value_errors(what: str, remedy: str = REMEDY) -> Iterator[None]:
    """Turns whatever a library raises about files of the wrong kind into a ValueError; OSError stays as it is.

    `what` names in the error what the block reads, and `remedy` ends it.
    """
    try:
        yield
    except (ValueError, OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{what} cannot be read: {type(error).__name__}: {error}. {remedy}") from error


@contextlib.contextmanager
def template_errors(kind: type[Exception] = jinja2.TemplateError) -> Iterator[None]:
    """Turns the error of a chat template that is broken, or does what its sandbox refuses, into a ValueError."""
    try:
        yield
    except kind as error:
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
            with template_errors(Exception):  # a template can do anything that an expression of Python can
                processor.apply_chat_template(conversation, chat_template=name, add_generation_prompt=True)


def check_vlm_parts(processor: Any) -> None:
    """Raises ValueError unless the parts of a processor that are the VLM's can be used."""
    check_pixels("image_processor", processor.image_processor.to_dict())
    check_pixels("video_processor", processor.video_processor.to_dict())
    check_template(processor)


def check_pixels(name: str, values: Mapping[str, Any]) -> None:
    """Raises ValueError unless pictures can be cut into patches and normalised with a sub-processor's `values`."""
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
