"""Conversations on a stored cache: which tokens are new, and where they stand.

Qwen-VL counts positions in three dimensions, so that the position of a token is not the number of tokens before it.
The VLM keeps their difference for the last prompt that it has seen, which another conversation overwrites, and counts
the visuals of a later turn as text. Here the differences lie with the cache itself, and go where it goes, into copies
too.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import Cache, GenerationConfig
from transformers.utils import ModelOutput

from .configuration_vega3d import VegaConfig
from .inputs_vega3d import TOKEN_TYPES, equal_items, text_ids, token_type_ids, visual_rows

OFFSETS = "vega3d_offsets"  # attribute of a cache, int[B, P]: next position - number of tokens, after each of them


def cached_length(cache: Cache | None) -> int:
    """Number of tokens in a cache; raises ValueError if it is no `Cache`."""
    if cache is not None and not isinstance(cache, Cache):
        raise ValueError(
            f"past_key_values must be a Cache of transformers, such as DynamicCache(), not {type(cache)}."
        )
    return 0 if cache is None else int(cache.get_seq_length())


def new_length(input_length: int, mask: torch.Tensor | None, cached: int) -> int:
    """How many tokens of a prompt for `generate` are not in the cache; raises ValueError if none is."""
    if cached == 0 or (mask is not None and mask.shape[1] == cached + input_length):
        return input_length
    if input_length <= cached:
        raise ValueError(
            f"The prompt has {input_length} tokens, but {cached} are in the cache already. Give the whole "
            "conversation, cached tokens first, or its new tokens with the attention_mask of the whole."
        )
    return input_length - cached


def check_mask(mask: torch.Tensor | None, cached: int, length: int) -> None:
    """Raises ValueError if a mask int[B, L] leaves out the cached tokens: the new ones would not see each other."""
    if mask is not None and mask.ndim == 2 and cached > 0 and mask.shape[1] != cached + length:
        raise ValueError(
            f"attention_mask has {mask.shape[1]} columns, but there are {cached} tokens in the cache and {length} new "
            f"ones. Give it for all {cached + length}, or leave it out if no token is padding."
        )


def offsets_after(cache: Cache | None, batch_size: int) -> torch.Tensor | None:
    """int[B]: next position less the number of tokens; None for a cache that was not filled by this model."""
    cached = cached_length(cache)
    if cache is None or cached == 0:
        return torch.zeros(batch_size, dtype=torch.long)
    known = vars(cache).get(OFFSETS)
    if known is None:
        return None
    last = known[:, min(cached, known.shape[1]) - 1]  # what generation added since is text, which moves no offset
    if batch_size % len(last) == 0:
        return last.repeat_interleave(batch_size // len(last))
    if (last == last[0]).all():
        return last[:1].expand(batch_size)
    raise ValueError(f"The cache is of {len(last)} conversations, but the prompt has {batch_size} rows.")


def remember(cache: Cache | None, cached: int, offsets: torch.Tensor) -> None:
    """Keeps the offsets of new tokens, int[B, L], with the cache, after those of the `cached` tokens before."""
    if cache is None:
        return
    known = vars(cache).get(OFFSETS)
    if cached > 0 and known is not None:
        known = known.repeat_interleave(len(offsets) // len(known), dim=0) if len(known) < len(offsets) else known
        missing = max(0, cached - known.shape[1])
        before = torch.cat([known[:, :cached], known[:, -1:].expand(-1, missing)], dim=1)
        offsets = torch.cat([before[: len(offsets)], offsets.to(before.device)], dim=1)
    elif cached > 0:
        return
    vars(cache)[OFFSETS] = offsets


def offsets_of(positions: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """int[B, L] for positions int[3, B, L] or int[B, L], and the numbers of tokens up to each, int[B, L].

    The VLM goes on after a visual from the longer side of its grid, however far its frames are apart in time.
    """
    highest = positions if positions.ndim == 2 else positions[-2:].amax(0)  # of rows and columns, not of time
    return highest.cummax(-1).values + 1 - attended


class NewTokens:
    """Where the tokens stand that are new to a cache: L in each of B rows (`shape`), after P in the cache.

    `core` is the VLM without its head, which counts the positions of visuals; `mask` is int[B, P + L] or None.
    """

    def __init__(
        self, core: Any, cache: Cache | None, shape: torch.Size | tuple[int, int], mask: Any, device: torch.device
    ):
        self.core, self.cache = core, cache
        self.cached, (self.rows, self.length) = cached_length(cache), shape
        self.mask = mask.bool() if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None
        check_mask(self.mask, self.cached, self.length)
        whole = torch.ones(self.rows, self.cached + self.length, dtype=torch.long, device=device)
        self.attended = (whole if self.mask is None else self.mask.long().to(device)).cumsum(-1)  # int[B, P + L]
        offsets = offsets_after(cache, self.rows)
        self.offsets = None if offsets is None else offsets.to(device)[:, None]  # int[B, 1]

    @property
    def is_step(self) -> bool:
        """Whether this is the next token of an answer, which is text whatever it is."""
        return self.cached > 0 and self.length == 1

    def positions(
        self,
        ids: torch.Tensor,
        config: VegaConfig,
        grids: Mapping[str, Any],
        outputs: Mapping[str, Any] | None,
        are_given: bool = True,
    ) -> torch.Tensor | None:
        """int[3, B, L], or None where the VLM counts by itself, from the number of cached tokens.

        Args:
            ids: int[B, L], `text_ids` of the new tokens.
            config: of the model.
            grids: `image_grid_thw` and `video_grid_thw` of the new visuals, `second_per_grid_ts` of Qwen2.5-VL.
            outputs: `mm_encoder_outputs` of the new visuals.
            are_given: whether the ids were given; from embeddings the VLM counts visuals as text.

        Raises:
            ValueError: if new visuals have no grid, or follow a cache that was not filled by this model.
        """
        types = token_type_ids(ids, config)
        has_grids = any(grids.get(f"{name}_grid_thw") is not None for name in TOKEN_TYPES)
        if self.cached == 0:
            if not are_given:  # left to itself, the VLM would count from the prompt before
                return torch.arange(self.length, device=ids.device).expand(3, self.rows, -1)
            return self._of_visuals(types, ids, grids, config) if has_grids else None
        is_text = self.is_step or not outputs
        if self.offsets is None and not is_text:
            raise ValueError(
                "The cache was filled by another model, so the positions of its tokens are unknown. Fill it by this "
                "model, or give position_ids."
            )
        if self.offsets is None:
            return None
        if is_text or not are_given:
            return self.of_text()
        return self._of_visuals(types, ids, new_grids(grids, outputs or {}, self.rows), config)

    def of_text(self) -> torch.Tensor:
        """int[3, B, L], with padding not counted."""
        assert self.offsets is not None
        return (self.attended[:, -self.length :] - 1 + self.offsets).clamp(min=0).expand(3, -1, -1)

    def _of_visuals(
        self, types: torch.Tensor, ids: torch.Tensor, grids: Mapping[str, Any], config: VegaConfig
    ) -> torch.Tensor:
        """Counted on the CPU, once for rows that are alike: the VLM does it visual by visual, and would wait for a GPU
        several times at each.
        """
        mask = None if self.mask is None else self.mask[:, -self.length :].long()
        given = {"mm_token_type_ids": types, "attention_mask": mask, **grids}
        near = {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in given.items()}
        first, alike, chosen = different_rows(ids.cpu(), near, config)
        positions = self.core.get_rope_index(first, **chosen)[0][:, alike].to(ids.device)
        if self.cached == 0:
            return positions
        return positions + self.attended[:, self.cached - 1 : self.cached] + self.offsets

    def remember(self, cache: Cache | None, positions: torch.Tensor | None) -> None:
        """Keeps with the cache, which holds the new tokens by now, where the next one stands."""
        if cache is None or (self.cached > 0 and self.offsets is None):
            return
        attended = self.attended[:, -self.length :]
        if positions is None:  # the VLM counts padding, too
            positions = torch.arange(self.length, device=attended.device).expand(self.rows, -1) + self.cached
        positions = positions[..., -self.length :].to(attended.device)
        remember(cache, self.cached, offsets_of(positions, attended))


def different_rows(
    ids: torch.Tensor, given: Mapping[str, Any], config: VegaConfig
) -> tuple[torch.Tensor, list[int], dict[str, Any]]:
    """Of rows whose tokens have the same positions only the first.

    Args:
        ids: int[B, L] on the CPU, as all else.
        given: `mm_token_type_ids`, `attention_mask` int[B, L] or None, and the grids and rates of the visuals.
        config: has the tokens and the merge by which visuals are counted to rows.

    Returns:
        Their ids int[R, L], for each of the B rows the number of its like among them, and what is `given` of them.
    """
    of_rows = {name: given[name] for name in ("mm_token_type_ids", "attention_mask") if given.get(name) is not None}
    layouts = [[values[row].numpy().tobytes() for values in of_rows.values()] for row in range(len(ids))]
    of_visuals: dict[str, tuple[Any, list[int]]] = {}
    for name in TOKEN_TYPES:
        grid = given.get(f"{name}_grid_thw")
        if grid is None:
            continue
        rows = visual_rows(ids, name, grid, config)
        of_visuals[f"{name}_grid_thw"] = grid, rows
        if name == "video" and given.get("second_per_grid_ts") is not None:
            of_visuals["second_per_grid_ts"] = torch.as_tensor(given["second_per_grid_ts"]), rows
    for values, rows in of_visuals.values():
        for value, row in zip(values.tolist(), rows, strict=True):
            layouts[row].append(tuple(value) if isinstance(value, list) else value)
    groups = equal_items([tuple(layout) for layout in layouts])
    alike = {row: number for number, group in enumerate(groups) for row in group}
    first = [group[0] for group in groups]  # in ascending order, as visuals stand
    chosen = {name: values[first] for name, values in of_rows.items()}
    for name, (values, rows) in of_visuals.items():
        chosen[name] = values[[number for number, row in enumerate(rows) if row in first]]
    return ids[first], [alike[row] for row in range(len(ids))], {**given, **chosen}


def new_grids(grids: Mapping[str, Any], outputs: Mapping[str, ModelOutput], rows: int) -> dict[str, Any]:
    """Grids, and rates of videos, of the visuals encoded; those of a whole conversation end with them.

    Raises ValueError if there are too few, or more of several conversations (`rows`).
    """
    chosen = dict(grids)
    for name, output in outputs.items():
        grid, count = grids.get(f"{name}_grid_thw"), len(output.pooler_output)
        if grid is None or len(grid) < count:
            raise ValueError(
                f"There are {count} new {name}s, but {name}_grid_thw has {0 if grid is None else len(grid)}. Give the "
                "grid of each."
            )
        if rows > 1 and len(grid) > count:
            raise ValueError(
                f"There are {count} new {name}s of {rows} conversations, but {name}_grid_thw has {len(grid)}, and the "
                "new ones do not stand at its end. Give the grids of the new ones alone."
            )
        chosen[f"{name}_grid_thw"] = grid[len(grid) - count :]
        seconds = grids.get("second_per_grid_ts")
        if name == "video" and seconds is not None:
            chosen["second_per_grid_ts"] = seconds[len(seconds) - count :]
    return chosen


def inferred_mask(ids: torch.Tensor, config: GenerationConfig, options: Mapping[str, Any]) -> torch.Tensor:
    """int[B, L]: zeros at padding, if it can be told from the end of an answer, as in `generate` of transformers."""
    padding, end = (options.get(name, getattr(config, name)) for name in ("pad_token_id", "eos_token_id"))
    ends = end if isinstance(end, list) else [end]
    return torch.ones_like(ids) if padding is None or padding in ends else ids.ne(padding).long()


class Prompt:
    """A prompt for `generate`, of which an earlier turn may be in the cache.

    `core` is the VLM without its head, `embeddings` are its own, int[B, L] -> float[B, L, D], and `inputs` those of
    `generate`: `input_ids` or `inputs_embeds`, `attention_mask`, `past_key_values`, and so on. Raises ValueError if
    there is no text, or none that is not in the cache.
    """

    def __init__(
        self, core: Any, embeddings: Any, config: VegaConfig, generation_config: GenerationConfig, inputs: dict
    ):
        self.config, self.inputs = config, inputs
        input_ids, embeds, self.cache = (
            inputs.get(name) for name in ("input_ids", "inputs_embeds", "past_key_values")
        )
        if input_ids is not None and input_ids.shape[1] == 0:
            input_ids = None
        whole = embeds if input_ids is None else input_ids
        if whole is None:
            raise ValueError("There is no text: give input_ids or inputs_embeds.")
        mask, cached = inputs.get("attention_mask"), cached_length(self.cache)
        length = new_length(whole.shape[1], mask, cached)
        if cached > 0 and mask is None:
            mask = inferred_mask(whole, generation_config, inputs) if input_ids is not None else None
        new_ids, new_embeds = (None if text is None else text[:, -length:] for text in (input_ids, embeds))
        self.are_given = input_ids is not None
        self.input_ids = input_ids
        # Where both are given, the VLM embeds the ids of the answer only.
        self.ids = text_ids(None if embeds is not None else new_ids, new_embeds, embeddings, config)
        self.given_ids = self.ids if new_ids is None else new_ids
        self.tokens = NewTokens(core, self.cache, self.ids.shape, mask, self.ids.device)
        self.mask = mask
        self.new = {
            "input_ids": None if embeds is not None else new_ids,
            "inputs_embeds": new_embeds,
            "attention_mask": mask,
            **{f"{name}_grid_thw": inputs.get(f"{name}_grid_thw") for name in TOKEN_TYPES},
        }
        self.positions: torch.Tensor | None = None

    def language_inputs(self, outputs: Mapping[str, ModelOutput]) -> dict[str, Any]:
        """What the VLM's `generate` needs besides, for new visuals with these encoder outputs."""
        more: dict[str, Any] = {}
        if self.input_ids is not None and self.inputs.get("mm_token_type_ids") is None:
            more["mm_token_type_ids"] = token_type_ids(self.input_ids, self.config)
        self.positions = self.inputs.get("position_ids")
        if self.positions is not None:
            return more
        grids = {name: self.inputs.get(name) for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")}
        tokens = self.tokens
        self.positions = tokens.positions(self.given_ids, self.config, grids, outputs, self.are_given)
        if tokens.cached == 0 and (self.positions is None or not self.are_given):
            self.positions = tokens.of_text()  # `generate` leaves padding out of the count
        if tokens.cached > 0 and self.positions is not None:
            before = self.positions.new_zeros(3, tokens.rows, tokens.cached)  # never read
            vision = torch.cat([before, self.positions], dim=-1)
            text = (tokens.attended - 1).clamp(min=0)[None].to(vision)
            more["position_ids"] = torch.cat([text, vision])
            more["attention_mask"] = (
                tokens.attended.new_ones(tokens.attended.shape) if self.mask is None else self.mask
            )
        if self.cache is not None:  # also if the VLM is stopped on the way
            self.remember(self.cache)
        return more

    def remember(self, cache: Cache | None) -> None:
        self.tokens.remember(cache, self.positions)
