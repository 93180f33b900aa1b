import sys

import pytest
import torch
from training_data import write_clip

from analysis.posed_clips import room_clip
from tiny_checkpoints import FROZEN
from vega3d.hub.load import load_vega
from vega3d.processing.video_vega3d import read_video
from vega3d.questions import SpatialQuestion
from vega3d.training import VegaCollator
from vega3d.training.collator import answer_tokens


@pytest.fixture(scope="module")
def tiny():
    return load_vega(FROZEN, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def collator(tiny):
    return VegaCollator(tiny[1], num_frames=3)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return [write_clip(folder / f"{number}.mp4", number, size=64 + 32 * number) for number in range(2)]


# As Qwen2.5-VL is published: no marks of generation, a system message of its own, a line end after each turn.
PUBLISHED_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a "
    "helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}{% if content['type'] == "
    "'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' %}<|vision_start|>"
    "<|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def conversation(clips) -> dict:
    return {
        "id": "two turns",
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What is this?"}]},
            {"role": "assistant", "content": "a bed"},
            {"role": "user", "content": [{"type": "text", "text": "And here? "}, {"type": "video"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "a shelf, and a lamp"}]},
        ],
        "videos": [str(clip) for clip in clips],
    }


TALK = [
    {"role": "user", "content": [{"type": "video"}, {"type": "video"}, {"type": "text", "text": "What?"}]},
    {"role": "assistant", "content": "a desk"},
]


def labelled(processor, labels: torch.Tensor) -> str:
    return processor.tokenizer.decode(labels[labels != -100])


def test_labels_are_the_answers_and_the_ends_of_their_turns(tiny, collator, clips):
    short = SpatialQuestion(clips[0], "Which?", ("bed", "shelf"), answer="B")
    batch = collator([conversation(clips), short])
    assert labelled(tiny[1], batch["labels"][0]) == "a bed<|im_end|>a shelf, and a lamp<|im_end|>"
    assert labelled(tiny[1], batch["labels"][1]) == "B<|im_end|>"

    kept = batch["labels"] != -100
    assert torch.equal(batch["labels"][kept], batch["input_ids"][kept])
    for row, answers in enumerate((["a bed<|im_end|>", "a shelf, and a lamp<|im_end|>"], ["B<|im_end|>"])):
        header = tiny[1].tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)
        starts = (kept[row] & ~kept[row].roll(1)).nonzero().flatten().tolist()
        assert len(starts) == len(answers)
        for start in starts:  # right after the header that the model is asked with
            assert batch["input_ids"][row, start - len(header) : start].tolist() == header


def test_labels_equal_those_of_the_templates_own_marks(tiny, collator, clips):
    """The stored template has marks of generation; most published ones have none, and the collator needs none."""
    row = conversation(clips)
    clip = [read_video(path, 3) for path in clips]
    messages = [
        {**message, "content": [dict(part) for part in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in row["messages"]
    ]
    for message, video in ((messages[1], clip[0]), (messages[3], clip[1])):
        next(part for part in message["content"] if part["type"] == "video")["video"] = video
    marked = tiny[1].apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, num_frames=3
    )

    ours = collator([row])

    assert torch.equal(ours["input_ids"], marked["input_ids"])
    assert torch.equal((ours["labels"] != -100).int(), torch.tensor(marked["assistant_masks"], dtype=torch.int))


def test_labels_under_a_published_template(clips):
    processor = load_vega(FROZEN, device="cpu")[1]
    processor.chat_template = PUBLISHED_TEMPLATE
    batch = VegaCollator(processor, num_frames=2)([conversation(clips), conversation(clips) | {"messages": TALK}])
    assert labelled(processor, batch["labels"][0]) == "a bed<|im_end|>a shelf, and a lamp<|im_end|>"
    assert labelled(processor, batch["labels"][1]) == "a desk<|im_end|>"
    assert processor.tokenizer.decode(batch["input_ids"][1]).startswith("<|im_start|>system\nYou are")


def test_a_batch_padded_on_the_right_equals_its_rows(tiny, collator, clips):
    model = tiny[0]
    rows = [conversation(clips), SpatialQuestion(clips[1], "Which?", ("bed", "shelf"), answer="B")]
    batch = collator(rows)
    assert batch["attention_mask"][1, 0] == 1 and batch["attention_mask"][1, -1] == 0

    total = tokens = 0.0
    for number, row in enumerate(rows):
        single = collator([row])
        length = single["input_ids"].shape[1]
        with torch.no_grad():
            alone, together = model(**single), model(**batch)
        torch.testing.assert_close(together.logits[number, :length], alone.logits[0], atol=1e-4, rtol=0)
        count = int((single["labels"][:, 1:] != -100).sum())
        total, tokens = total + alone.loss.item() * count, tokens + count

    assert together.loss.item() == pytest.approx(total / tokens, abs=1e-5)


def test_boxes_of_a_question_are_drawn(tiny, clips):
    collator = VegaCollator(tiny[1], num_frames=2)
    plain = SpatialQuestion(clips[0], "Which?", ("A", "B"), answer="B")
    marked = SpatialQuestion(
        clips[0], "Which?", ("A", "B"), answer="B", frame=2, marks=((8, 8, 30, 30), (34, 8, 60, 60))
    )
    without, drawn = collator([plain]), collator([marked])
    for stream in ("pixel_values_videos", "generator_pixel_values_videos"):
        assert not torch.equal(without[stream], drawn[stream])
    assert torch.equal(without["labels"], drawn["labels"])


def test_images_and_videos_of_a_batch_are_packed(tiny, collator, clips):
    frame = read_video(clips[0], sys.maxsize).frames[0]
    image = {
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "noise"},
        ],
        "images": [frame],
    }

    batch = collator([image, conversation(clips)])

    assert batch["image_grid_thw"].shape == (1, 3) and batch["generator_image_grid_thw"].shape == (1, 3)
    assert batch["video_grid_thw"].shape == (2, 3) and batch["generator_video_grid_thw"][:, 0].tolist() == [3, 3]

    tiny[0](**batch)


def test_ids_are_given_only_when_asked_for(tiny, clips):
    rows = [conversation(clips), SpatialQuestion(clips[0], "Which?", answer="B")]
    assert "ids" not in VegaCollator(tiny[1], num_frames=2)(rows)
    assert VegaCollator(tiny[1], num_frames=2, return_ids=True)(rows)["ids"] == ["two turns", "number 1 of the batch"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"videos": ["missing.mp4", "gone.mp4"]},
            r"those of the rows two turns \(missing.mp4\), two turns \(gone.mp4\)",
        ),
        ({"videos": [__file__, __file__]}, "Row two turns has a video or image that cannot be used"),
    ],
)
def test_a_video_that_is_missing_or_broken_names_its_row(collator, clips, change, message):
    with pytest.raises(ValueError, match=message):
        collator([{**conversation(clips), **change}])


def test_answers_are_found_behind_placeholders_that_were_written_out():
    """Text `v<answer`, with v written out as four characters: tokens of two characters, then padding."""
    offsets = [[0, 2], [2, 4], [4, 5], [5, 7], [7, 9], [0, 0]]
    replaced = [{"span": (0, 1), "new_span": (0, 4)}]
    assert answer_tokens(offsets, [(2, 6)], replaced, "x") == [3, 4]


@pytest.mark.parametrize("span", [(1, 4), (6, 8)])
def test_an_answer_whose_first_token_is_not_its_own_is_refused(span):
    """As where a tokenizer writes the line end of the prompt and that of the answer as one token."""
    with pytest.raises(ValueError, match="Row x cannot be trained on: the first token"):
        answer_tokens([[0, 2], [2, 4], [0, 0]], [span], [], "x")


def test_a_template_that_rewrites_earlier_turns_is_refused(tiny, clips):
    processor = load_vega(FROZEN, device="cpu")[1]
    processor.chat_template = processor.chat_template.replace(
        "{{ message['role'] }}", "{{ message['role'] if loop.last else 'earlier ' + message['role'] }}"
    )
    with pytest.raises(ValueError, match="Row two turns cannot be trained on: the chat template"):
        VegaCollator(processor, num_frames=2)([conversation(clips)])


def test_cached_features_take_the_place_of_pixels(tiny, clips, tmp_path):
    from vega3d.features.cache import FeatureCache, feature_identity
    from vega3d.modeling.inputs_vega3d import unpacked_clips

    model, processor = tiny
    cache, identity = FeatureCache(tmp_path), feature_identity(model.model.generator)
    collator = VegaCollator(processor, num_frames=2, cache=cache, identity=identity)
    online = collator([conversation(clips)])
    assert "generator_pixel_values_videos" in online
    filled = cache.fill(model, online)
    cached = collator([conversation(clips)])
    assert "generator_pixel_values_videos" not in cached
    for ours, theirs in zip(cached["generator_hidden_states"], filled["generator_hidden_states"], strict=True):
        assert torch.equal(ours, theirs.cpu())
    with torch.no_grad():
        exact = model.model.generator.encode(unpacked_clips(online, model.config.generator_config.patch_size))
        wanted = pytest.approx(model(**online).loss.item(), abs=1e-4)
        assert model(**{**cached, "generator_hidden_states": exact}).loss.item() == wanted
        assert model(**{**cached, "generator_hidden_states": [-hidden for hidden in exact]}).loss.item() != wanted
    for ours, theirs in zip(cached["generator_hidden_states"], exact, strict=True):
        assert torch.equal(ours, theirs.bfloat16())


def test_a_cache_needs_the_generators_identity(tiny, tmp_path):
    with pytest.raises(ValueError, match="identity"):
        VegaCollator(tiny[1], cache=object())


def test_posed_clips_bring_the_positions_of_their_tokens(collator, clips):
    """A row with a posed clip and a point, beside one of a file; each as if it were alone."""
    posed = room_clip(3, 64, 64).video()
    talk = [{"role": "user", "content": "<video>What is at <coord>?"}, {"role": "assistant", "content": "a bed"}]
    rows = [
        {"id": "posed", "messages": talk, "videos": [posed], "coord_positions": [[1.0, 2.0, 0.5]]},
        {"id": "plain", "messages": TALK, "videos": [str(clip) for clip in clips]},
    ]
    batch, alone = collator(rows), collator(rows[:1])
    count = len(alone["visual_positions"])

    assert batch["coord_positions"].tolist() == [[1.0, 2.0, 0.5]]
    assert torch.equal(batch["visual_positions"][:count], alone["visual_positions"])
    assert batch["visual_positions_mask"][:count].all()
    assert not batch["visual_positions_mask"][count:].any()
    assert not {"visual_positions", "coord_positions"} & collator(rows[1:]).keys()
    for wrong in ([[1.0, 2.0]], [[0.0] * 3] * 2, [[float("nan"), 0.0, 0.0]]):
        with pytest.raises(ValueError, match="Row posed cannot be trained on: its `coord_positions`"):
            collator([{**rows[0], "coord_positions": wrong}])
