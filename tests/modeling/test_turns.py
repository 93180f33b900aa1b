"""Whatever visuals come in are fused or refused: with caches, embeddings, encoder outputs, in later turns."""

import copy
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForImageTextToText, DynamicCache, StaticCache

from tiny_inputs import CASES, IMAGE, SHORT_VIDEO, VIDEO, Visual, without_generator
from tiny_models import IMAGE_TOKEN, VIDEO_TOKEN, every_vlm
from vega3d.modeling.inputs_vega3d import FusedVisuals, token_type_ids
from vega3d.modeling.turns_vega3d import NewTokens

pytestmark = every_vlm
TOLERANCE = {"atol": 2e-5, "rtol": 0}
OTHER = Visual(5, seed=7)
GREEDY = {"do_sample": False, "suppress_tokens": [IMAGE_TOKEN, VIDEO_TOKEN], "return_dict_in_generate": True}
CACHES = {
    "dynamic": lambda model: DynamicCache(),
    "dynamic with config": lambda model: DynamicCache(config=model.config),
    "static": lambda model: StaticCache(config=model.config.vlm_config.get_text_config(), max_cache_len=200),
}


@pytest.fixture(scope="module")
def plain(backbones):
    return AutoModelForImageTextToText.from_pretrained(backbones[0])


@pytest.fixture(scope="module")
def closed(assemble):
    return assemble(fusion_residual_init=0.0)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def embedded(model, inputs) -> dict:
    inputs = dict(inputs)
    return {"inputs_embeds": model.get_input_embeddings()(inputs.pop("input_ids")), **inputs}


def part(inputs, start: int | None, end: int | None) -> dict:
    """The new tokens of a prompt, with the mask of the whole up to there."""
    return {"input_ids": inputs["input_ids"][:, start:end], "attention_mask": inputs["attention_mask"][:, :end]}


def visuals(batch, *prompts) -> dict:
    return {name: value for name, value in batch(*prompts).items() if name not in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", CACHES)
def test_an_empty_cache_changes_nothing(model, closed, plain, batch, case, kind):
    inputs = batch(*CASES[case])
    theirs = without_generator(inputs)

    ours = model(**inputs, past_key_values=CACHES[kind](model)).logits
    shut = closed(**inputs, past_key_values=CACHES[kind](model)).logits

    seen = inputs["attention_mask"].bool()
    torch.testing.assert_close(ours[seen], model(**inputs).logits[seen], **TOLERANCE)
    assert torch.equal(shut, plain(**theirs, past_key_values=CACHES[kind](model)).logits)


@pytest.mark.parametrize("case", ["video", "image", "mixture", "text"])
def test_embeddings_are_merged_as_in_the_plain_vlm(model, closed, backbones, batch, case):
    inputs = batch(*CASES[case])
    fresh = AutoModelForImageTextToText.from_pretrained(backbones[0])
    theirs = embedded(fresh, without_generator(inputs))
    expected = fresh(**theirs).logits
    model(**batch(*CASES["batch"]))  # which must not be remembered

    assert torch.equal(closed(**embedded(closed, inputs)).logits, expected)
    assert torch.equal(model(**embedded(model, inputs)).logits, expected) == (case == "text")
    generated = closed.generate(**embedded(closed, inputs), **GREEDY, max_new_tokens=4, output_logits=True)
    reference = fresh.generate(**theirs, **GREEDY, max_new_tokens=4, output_logits=True)
    assert torch.equal(torch.stack(generated.logits), torch.stack(reference.logits))


@pytest.mark.parametrize("door", ["forward", "generate"])
def test_clips_beside_embeddings_are_seen(model, batch, door):
    first, second = (embedded(model, batch([5, visual, 7, 8])) for visual in (VIDEO, OTHER))
    if door == "forward":
        assert not torch.equal(model(**first).logits[:, -1], model(**second).logits[:, -1])
        return
    options = {**GREEDY, "max_new_tokens": 1, "output_logits": True}
    assert not torch.equal(model.generate(**first, **options).logits[0], model.generate(**second, **options).logits[0])


def test_ids_beside_embeddings(model, batch, vlm_type):
    inputs = batch([5, VIDEO, 7, 8])
    both = {**inputs, **embedded(model, inputs)}
    options = {**GREEDY, "max_new_tokens": 3}

    assert torch.equal(
        model.generate(**both, **options).sequences[:, -3:], model.generate(**inputs, **options).sequences[:, -3:]
    )
    if vlm_type == "qwen2_5_vl":  # Qwen3-VL takes one of them
        assert torch.equal(model(**both).logits, model(**inputs).logits)


def test_the_question_is_found_in_embeddings(assemble, batch):
    model, inputs = assemble(fusion="instruction_gated"), batch([VIDEO, 7, 8], [5, SHORT_VIDEO])
    gates = model(**inputs, output_gates=True).gates["video"]

    found = model(**embedded(model, inputs), output_gates=True).gates["video"]

    assert all(torch.equal(*pair) for pair in zip(found, gates, strict=True))


def test_embeddings_that_do_not_tell_images_from_videos_are_refused(assemble, batch):
    model = assemble()
    weight = model.get_input_embeddings().weight
    weight.data[IMAGE_TOKEN] = weight.data[VIDEO_TOKEN]

    with pytest.raises(ValueError, match="inputs_embeds does not say which"):
        model(**embedded(model, batch([5, VIDEO, 7])))


def test_embeddings_without_their_placeholders_are_refused(model, batch):
    inputs = embedded(model, batch([5, VIDEO, 7]))
    inputs["inputs_embeds"] = inputs["inputs_embeds"] + 1e-3

    for call in (model, model.generate):
        with pytest.raises(ValueError, match="The text has 0 video placeholder tokens, but the videos given have 18"):
            call(**inputs)


TURNS = {
    "video, text, video": ([5, VIDEO, 7], [8, 9], [10, OTHER, 11]),
    "image, video, text": ([5, IMAGE, 7], [8, SHORT_VIDEO, 9], [10, 11]),
    "text, image, image and video": ([5, 6, 7], [8, IMAGE, 9], [10, IMAGE, OTHER, 11]),
    "text, text, video": ([5, 6], [7, 8], [VIDEO, 9]),
    "videos, image, text": ([VIDEO, 5, OTHER], [6, IMAGE, 7], [8, 9]),
}


@pytest.mark.parametrize(("kind", "with_mask"), [("dynamic", False), ("dynamic with config", True), ("static", True)])
@pytest.mark.parametrize("turns", TURNS)
def test_turns_on_a_cache_equal_the_whole_conversation(model, batch, turns, kind, with_mask):
    turns = TURNS[turns]
    whole = batch([item for turn in turns for item in turn])
    expected = model(**whole).logits
    ends = [batch([item for turn in turns[:n] for item in turn])["input_ids"].shape[1] for n in range(len(turns) + 1)]
    cache = CACHES[kind](model)
    model(**batch([IMAGE, 3, VIDEO]))  # another conversation, between the turns as well

    for (start, end), turn in zip(pairwise(ends), turns, strict=True):
        new = part(whole, start, end) if with_mask else {"input_ids": whole["input_ids"][:, start:end]}
        logits = model(**new, **visuals(batch, turn), past_key_values=cache).logits
        model(**batch([3, OTHER, SHORT_VIDEO]), past_key_values=DynamicCache())

        torch.testing.assert_close(logits, expected[:, start:end], **TOLERANCE)


@pytest.mark.parametrize("turns", TURNS)
def test_generated_turns_on_a_cache_equal_the_whole_conversation(model, batch, turns):
    options = {**GREEDY, "max_new_tokens": 3, "output_logits": True}
    conversation, seen, cache = [], [], None
    ids = torch.zeros(1, 0, dtype=torch.long)
    for turn in TURNS[turns]:
        ids = torch.cat([ids, batch(turn)["input_ids"]], dim=1)
        seen += [item for item in turn if isinstance(item, Visual)]
        given = visuals(batch, turn)

        kept = model.generate(input_ids=ids, **given, **options, **({"past_key_values": cache} if cache else {}))
        whole = model.generate(input_ids=ids, **visuals(batch, seen), **options)

        torch.testing.assert_close(torch.stack(kept.logits), torch.stack(whole.logits), **TOLERANCE)
        ids, cache = kept.sequences, kept.past_key_values
        conversation.append(cache.get_seq_length())
    assert conversation == sorted(set(conversation))


@contextmanager
def heard_positions(model):
    """Collects the positions int[3, B, L] of each pass of the language model."""
    heard: list[torch.Tensor] = []
    rotation = model.model.vlm.model.language_model.rotary_emb
    hook = rotation.register_forward_pre_hook(lambda _, given: heard.append(given[1]))
    try:
        yield heard
    finally:
        hook.remove()


def rates_of(prompt, vlm_type: str, seconds: float) -> dict:
    """Of Qwen2.5-VL alone: how far the frames of each video are apart, the second twice as far as the first, ..."""
    count = sum(isinstance(item, Visual) and item.is_video for item in prompt)
    is_told = vlm_type == "qwen2_5_vl" and count > 0
    return {"second_per_grid_ts": seconds * torch.arange(1, count + 1)} if is_told else {}


@pytest.mark.parametrize("seconds", [0.5, 4.0])
@pytest.mark.parametrize("door", ["forward", "generate"])
@pytest.mark.parametrize("turns", TURNS)
def test_new_tokens_stand_where_the_whole_conversation_has_them(model, batch, vlm_type, turns, door, seconds):
    ids, seen, cache = torch.zeros(1, 0, dtype=torch.long), [], DynamicCache()
    with heard_positions(model) as heard:
        for turn in TURNS[turns]:
            new, seen = batch(turn)["input_ids"], [*seen, *turn]
            rates = rates_of(seen, vlm_type, seconds)
            count = sum(isinstance(item, Visual) and item.is_video for item in turn)
            given = {**visuals(batch, turn), **{name: rate[len(rate) - count :] for name, rate in rates.items()}}
            if door == "forward":
                model(input_ids=new, **given, past_key_values=cache)
                ids = torch.cat([ids, new], dim=1)
            else:
                prompt = torch.cat([ids, new], dim=1)
                kept = model.generate(input_ids=prompt, **given, past_key_values=cache, **GREEDY, max_new_tokens=3)
                ids = kept.sequences

    types = token_type_ids(ids, model.config)
    grids = {name: value for name, value in visuals(batch, seen).items() if name.endswith("_grid_thw")}
    whole, _ = model.model.vlm.model.get_rope_index(ids, types, **grids, **rates_of(seen, vlm_type, seconds))
    positions = torch.cat(heard, dim=-1)
    assert torch.equal(positions, whole[..., : positions.shape[-1]])
    assert ids.shape[1] - positions.shape[-1] == (door == "generate")  # the last token was not read any more


class Elsewhere(torch.Tensor):
    """A tensor that stands for one on a GPU: `cpu` makes a plain one of it."""

    def cpu(self):
        return super().cpu().as_subclass(torch.Tensor)


def test_positions_are_counted_on_the_cpu(model, batch, monkeypatch):
    inputs = batch([5, VIDEO, 7, IMAGE, 8])
    core, ids = model.model.vlm.model, inputs["input_ids"]
    grids = {name: value for name, value in inputs.items() if name in ("image_grid_thw", "video_grid_thw")}
    mask = torch.ones_like(ids)
    expected, _ = core.get_rope_index(ids, token_type_ids(ids, model.config), attention_mask=mask, **grids)
    places = []

    def counted(*args, usual=core.get_rope_index, **given):
        places.extend(type(value) for value in (*args, *given.values()) if isinstance(value, torch.Tensor))
        return usual(*args, **given)

    monkeypatch.setattr(core, "get_rope_index", counted)
    far = {name: value.as_subclass(Elsewhere) for name, value in grids.items()}
    tokens = NewTokens(core, None, ids.shape, mask.as_subclass(Elsewhere), ids.device)
    found = tokens.positions(ids.as_subclass(Elsewhere), model.config, far, None)
    assert set(places) == {torch.Tensor} and len(places) == 3 + len(grids)
    assert torch.equal(found, expected)


def test_rows_that_are_alike_are_counted_once(model, batch, vlm_type, monkeypatch):
    rows = [
        [5, VIDEO, 7],
        [6, VIDEO, 8],
        [5, IMAGE, 7],
        [5, 6, VIDEO, 7],
        [9, OTHER, IMAGE, 7],
        [9, VIDEO, 5],
        [4, IMAGE, 5],
    ]
    inputs, core = batch(*rows), model.model.vlm.model
    grids = {name: value for name, value in inputs.items() if name in ("image_grid_thw", "video_grid_thw")}
    seconds = [1.0, 1.0, 1.0, 1.0, 2.0]  # of each video; the last one's row is like the first in all else
    rates = {"second_per_grid_ts": torch.tensor(seconds)} if vlm_type == "qwen2_5_vl" else {}
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    expected, _ = core.get_rope_index(ids, token_type_ids(ids, model.config), attention_mask=mask, **grids, **rates)
    counted = []

    def count(ids, usual=core.get_rope_index, **given):
        counted.append(len(ids))
        return usual(ids, **given)

    monkeypatch.setattr(core, "get_rope_index", count)
    found = NewTokens(core, None, ids.shape, mask, ids.device).positions(ids, model.config, {**grids, **rates}, None)
    assert torch.equal(found, expected)
    assert counted == [5 if rates else 4]


def test_rates_of_the_whole_conversation_end_with_those_of_new_videos(model, batch, vlm_type):
    turns = [5, VIDEO, 7], [8, OTHER, 9]
    whole, rates = batch([*turns[0], *turns[1]]), rates_of([*turns[0], *turns[1]], vlm_type, 3.0)
    cache = DynamicCache()
    model(**batch(turns[0]), **{name: rate[:1] for name, rate in rates.items()}, past_key_values=cache)
    outputs = model.encode(**batch(turns[1])).mm_encoder_outputs
    start = cache.get_seq_length()

    logits = model(
        input_ids=whole["input_ids"][:, start:],
        video_grid_thw=whole["video_grid_thw"],
        mm_encoder_outputs=outputs,
        past_key_values=cache,
        **rates,
    ).logits

    torch.testing.assert_close(logits, model(**whole, **rates).logits[:, start:], **TOLERANCE)


def test_grids_of_several_whole_conversations_are_refused(model, batch):
    """Each conversation ends with its own new visual, and not all of them together."""
    firsts, seconds = ([5, VIDEO], [6, SHORT_VIDEO]), ([7, SHORT_VIDEO], [8, VIDEO])
    first, second = batch(*firsts), batch(*seconds)
    cache = model(**first, use_cache=True).past_key_values
    outputs = model.encode(**second).mm_encoder_outputs
    grids = batch(*(a + b for a, b in zip(firsts, seconds, strict=True)))["video_grid_thw"]
    mask = torch.cat([first["attention_mask"], second["attention_mask"]], dim=1)
    new = {"input_ids": second["input_ids"], "attention_mask": mask, "mm_encoder_outputs": outputs}

    with pytest.raises(ValueError, match="2 new videos of 2 conversations, but video_grid_thw has 4"):
        model(**new, video_grid_thw=grids, past_key_values=cache)


def test_batched_turns_with_padding(model, batch):
    firsts, seconds = ([5, VIDEO, 7, 8], [IMAGE, 4]), ([9, IMAGE, 10], [6, SHORT_VIDEO, 10, 11])
    first, second = batch(*firsts), batch(*seconds)
    cache = model(**first, use_cache=True).past_key_values
    mask = torch.cat([first["attention_mask"], second["attention_mask"]], dim=1)

    logits = model(**{**second, "attention_mask": mask}, past_key_values=cache).logits

    for row in range(2):
        expected = model(**batch([*firsts[row], *seconds[row]])).logits[0]
        torch.testing.assert_close(logits[row, -2:], expected[-2:], **TOLERANCE)


def test_a_generated_second_turn_of_a_padded_batch(model, batch):
    """Without a mask padding is told by its token, as in the first turn."""
    inputs = batch([5, VIDEO, 7, 8], [IMAGE, 4])
    options = {**GREEDY, "max_new_tokens": 3, "output_logits": True}
    kept = model.generate(**inputs, **options)
    ids = torch.cat([kept.sequences, torch.tensor([[9, 10], [11, 12]])], dim=1)

    second = model.generate(input_ids=ids, past_key_values=kept.past_key_values, **options)

    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 5, dtype=torch.long)], dim=1)
    whole = model.generate(**{**inputs, "input_ids": ids, "attention_mask": mask}, **options)
    torch.testing.assert_close(torch.stack(second.logits), torch.stack(whole.logits), **TOLERANCE)


@pytest.mark.parametrize("way", ["copied", "cropped", "repeated"])
def test_positions_go_where_the_cache_goes(model, batch, way):
    whole = batch([5, VIDEO, 7, 8, IMAGE, 9])
    first = batch([5, VIDEO, 7, 8])
    cache = model(**first, use_cache=True).past_key_values
    if way == "copied":
        kept, cache = cache, copy.deepcopy(cache)
        model(input_ids=torch.tensor([[3, 4]]), past_key_values=kept)
    elif way == "cropped":
        model(**{**batch([SHORT_VIDEO, 3]), "attention_mask": None}, past_key_values=cache)
        cache.crop(first["input_ids"].shape[1] - cache.get_seq_length())
    else:
        cache.batch_repeat_interleave(2)
    rest = batch([IMAGE, 9], [IMAGE, 9]) if way == "repeated" else batch([IMAGE, 9])
    rest.pop("attention_mask")

    logits = model(**rest, past_key_values=cache).logits

    expected = model(**whole).logits[:, first["input_ids"].shape[1] :]
    torch.testing.assert_close(logits, expected.expand_as(logits), **TOLERANCE)


def test_a_loop_of_single_tokens_equals_generate(model, batch):
    inputs = batch([5, VIDEO, 7])
    expected = model.generate(**inputs, do_sample=False, max_new_tokens=4, return_dict_in_generate=True).sequences
    cache, tokens = DynamicCache(), []
    logits = model(**inputs, past_key_values=cache).logits

    for _ in range(4):
        tokens.append(logits[:, -1].argmax(-1, keepdim=True))  # a placeholder here is text, as for the VLM
        logits = model(input_ids=tokens[-1], past_key_values=cache).logits

    assert torch.equal(torch.cat(tokens, dim=1), expected[:, -4:])


@pytest.mark.parametrize(
    "options",
    [{"prefill_chunk_size": 7}, {"prompt_lookup_num_tokens": 2}, {"num_beams": 2}, {"cache_implementation": "static"}],
    ids=str,
)
@pytest.mark.parametrize("case", ["video", "mixture"])
def test_ways_of_generation_are_those_of_the_plain_vlm(closed, plain, batch, options, case):
    inputs = batch(*CASES[case])
    options = {**GREEDY, **options, "max_new_tokens": 4}

    ours = closed.generate(**inputs, **options).sequences

    assert torch.equal(ours, plain.generate(**without_generator(inputs), **options).sequences)


def test_assisted_generation_on_a_fused_prompt(closed, plain, batch):
    inputs = batch(*CASES["video"])
    expected = closed.generate(**inputs, **GREEDY, max_new_tokens=5).sequences

    assert torch.equal(
        closed.generate(**inputs, assistant_model=plain, **GREEDY, max_new_tokens=5).sequences, expected
    )


def test_beams_do_not_change_the_encoding_that_is_asked_again(model, batch):
    inputs = batch([5, VIDEO, 7, 8])
    encoded = model.encode(**inputs).mm_encoder_outputs
    options = {"mm_encoder_outputs": encoded, "max_new_tokens": 3, "num_beams": 3}

    first, second = (model.generate(**inputs, **options) for _ in range(2))

    assert torch.equal(first, second) and len(encoded["video"].pooler_output) == 1


def test_outputs_of_the_encoder_beside_their_own_pixels(model, batch):
    inputs = batch([5, VIDEO, IMAGE, 7])
    outputs = model.encode(**inputs).mm_encoder_outputs
    again = {name: value.clone() for name, value in inputs.items()}  # as of another question on the same clip

    for given in (inputs, again, without_generator({**inputs, "pixel_values": None, "pixel_values_videos": None})):
        assert torch.equal(model(**given, mm_encoder_outputs=outputs).logits, model(**inputs).logits)
        generated = model.generate(**given, mm_encoder_outputs=outputs, max_new_tokens=3)
        assert torch.equal(generated, model.generate(**inputs, max_new_tokens=3))


@pytest.mark.parametrize("name", ["pixel_values_videos", "generator_pixel_values_videos", "generator_hidden_states"])
def test_outputs_of_the_encoder_beside_other_visuals_are_refused(model, batch, name):
    inputs, other = batch([5, VIDEO, 7]), batch([5, OTHER, 7])
    outputs = model.encode(**inputs).mm_encoder_outputs
    other["generator_hidden_states"] = model.generator_features(**other)

    for call in (model, model.generate):
        with pytest.raises(ValueError, match=f"Both mm_encoder_outputs and {name} are given"):
            call(**{**inputs, name: other[name]}, mm_encoder_outputs=outputs)
        with pytest.raises(ValueError, match=r"Both mm_encoder_outputs and pixel_values_videos"):
            call(**inputs, mm_encoder_outputs=copy.copy(dict(outputs)))


def test_encoder_outputs_can_be_copied_and_saved(model, batch, tmp_path):
    inputs = batch([5, VIDEO, 7])
    outputs = model.encode(**inputs).mm_encoder_outputs
    assert isinstance(outputs, FusedVisuals)
    torch.save(outputs, tmp_path / "outputs.pt")
    loaded = torch.load(tmp_path / "outputs.pt", weights_only=False)
    text = {name: inputs[name] for name in ("input_ids", "attention_mask", "video_grid_thw")}

    for other in (copy.deepcopy(outputs), loaded):
        assert torch.equal(model(**text, mm_encoder_outputs=other).logits, model(**inputs).logits)


def drop(*names: str):
    return lambda inputs: {name: value for name, value in inputs.items() if name not in names}


SEMANTIC = ("pixel_values", "pixel_values_videos")
NO_TEXT = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
REFUSED = {
    "generator pixels alone": (
        lambda inputs: {**drop(*SEMANTIC)(inputs), **NO_TEXT},
        "generator_pixel_values come without pixel_values",
    ),
    "generator video alone": (
        lambda inputs: {**drop(*SEMANTIC, "generator_pixel_values")(inputs), **NO_TEXT},
        "generator_pixel_values_videos come without pixel_values_videos",
    ),
    "semantic pixels alone": (
        drop("generator_pixel_values", "generator_pixel_values_videos"),
        "no generator_pixel_values .* TRL's GRPOTrainer",
    ),
    "pixels for no placeholder": (lambda inputs: {**inputs, **NO_TEXT}, "The text has 0 image placeholder tokens"),
    "placeholders without pixels": (drop(*SEMANTIC), "but the images given have 0"),
    "pixels of another grid": (
        lambda inputs: {**inputs, "pixel_values": inputs["pixel_values"][:-4]},
        "pixel_values has 12 patches, but image_grid_thw .* has 16",
    ),
    "features of a clip for no visual": (
        lambda inputs: {**NO_TEXT, "generator_hidden_states": [torch.zeros(1, 2, 2, 24)]},
        "There are 0 images and videos, but generator_hidden_states of 1",
    ),
    "features and pixels for the generator": (
        lambda inputs: {
            **inputs,
            "generator_hidden_states": [torch.zeros(1, 2, 2, 24), torch.zeros(5, 2, 3, 24)],
        },
        "Both generator_hidden_states and the generator's pixels",
    ),
    "features that are not finite": (
        lambda inputs: {
            **drop("generator_pixel_values", "generator_pixel_values_videos")(inputs),
            "generator_hidden_states": [torch.zeros(1, 2, 2, 24), torch.full((5, 2, 3, 24), float("nan"))],
        },
        r"generator_hidden_states of clip 1 \(of 2\) are not finite",
    ),
    "no text": (drop("input_ids", "attention_mask"), "There is no text"),
    "encoder outputs for no placeholder": (
        lambda inputs: {**NO_TEXT, "mm_encoder_outputs": "of the images"},
        "The text has 0 image placeholder tokens, but the images given have 4",
    ),
    "encoder outputs of one kind of two": (
        lambda inputs: {
            **drop(*(name for name in inputs if "pixel" in name))(inputs),
            "mm_encoder_outputs": "of the images",
        },
        "18 video placeholder tokens, but the videos given have 0",
    ),
    "encoder outputs of no kind": (
        lambda inputs: {**NO_TEXT, "mm_encoder_outputs": {"images": None}},
        r"mm_encoder_outputs has \['images'\]",
    ),
    "a cache of another type": (
        lambda inputs: {**inputs, "past_key_values": ((torch.zeros(1), torch.zeros(1)),)},
        "must be a Cache of transformers",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("cached", [False, True])
def test_visuals_that_would_go_unseen_are_refused(model, batch, name, cached):
    change, message = REFUSED[name]
    inputs = change(batch([5, IMAGE, VIDEO, 7]))
    if inputs.get("mm_encoder_outputs") == "of the images":
        inputs["mm_encoder_outputs"] = {"image": model.encode(**batch([5, IMAGE])).mm_encoder_outputs["image"]}
    if cached and "past_key_values" not in inputs:
        inputs["past_key_values"] = model(**batch([5, 6, SHORT_VIDEO]), use_cache=True).past_key_values
        inputs.pop("attention_mask", None)

    with pytest.raises(ValueError, match=message):
        model(**inputs)
    if not cached:
        with pytest.raises(ValueError, match=message):
            model.generate(**inputs, max_new_tokens=1)


def test_a_mask_that_leaves_out_the_cache_is_refused(model, batch):
    """Transformers would hide the new tokens from each other, and the answer would not see the clip."""
    cache = model(**batch([5, VIDEO]), use_cache=True).past_key_values

    with pytest.raises(ValueError, match=r"attention_mask has \d+ columns, but there are \d+ tokens in the cache"):
        model(**batch([5, OTHER, 7]), past_key_values=cache)


@pytest.mark.parametrize(
    "pixels", [SEMANTIC[1:], (*SEMANTIC[1:], "generator_pixel_values_videos")], ids=["one", "both"]
)
def test_pixels_of_what_is_in_the_cache_are_refused(model, batch, pixels):
    """As by the plain VLM; they could be of another clip."""
    inputs = batch([5, VIDEO, 7])
    kept = model.generate(**inputs, **GREEDY, max_new_tokens=2)
    again = {name: inputs[name] for name in (*pixels, "video_grid_thw", "generator_video_grid_thw")}

    with pytest.raises(ValueError, match=r"0 video placeholder tokens, but the videos given have 18.*in the cache"):
        model.generate(input_ids=kept.sequences, past_key_values=kept.past_key_values, **again)


def test_a_prompt_that_is_wholly_in_the_cache_is_refused(model, batch):
    inputs = batch([5, VIDEO, 7])
    cache = model(**inputs, use_cache=True).past_key_values

    with pytest.raises(ValueError, match="are in the cache already"):
        model.generate(**{name: inputs[name] for name in ("input_ids", "attention_mask")}, past_key_values=cache)


def test_new_visuals_after_a_cache_of_unknown_positions_are_refused(model, batch):
    cache = DynamicCache()
    model.model.vlm(input_ids=torch.tensor([[5, 6, 7]]), past_key_values=cache)
    inputs = batch([5, VIDEO, 7])
    inputs.pop("attention_mask")

    with pytest.raises(ValueError, match="filled by another model"):
        model(**inputs, past_key_values=cache)
    assert model(input_ids=torch.tensor([[5]]), past_key_values=cache).logits.isfinite().all()


def test_two_conversations_and_two_models_share_no_state(model, assemble, batch):
    """A second turn is the same whether or not another prompt came between."""
    other, turn = assemble(), {"input_ids": torch.tensor([[9, 10, 11]])}
    logits = []
    for between in (None, model, other):
        cache = model(**batch([5, VIDEO, 7]), use_cache=True).past_key_values
        if between is not None:
            between.generate(**batch(*CASES["batch"]), max_new_tokens=2)
            between(**batch([IMAGE, 3]), past_key_values=DynamicCache())
        logits.append(model(**turn, past_key_values=cache).logits)

    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
