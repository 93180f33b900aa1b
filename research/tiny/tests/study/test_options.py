"""Options that know whether they are right."""

import string

import numpy as np
import torch

from fitting import fit
from research.tiny.study.option_head import OptionHead, option_ends
from research.tiny.study.packs import IGNORED
from research.tiny.study.stages import PackMaker
from research.tiny.study.vlm import build_tokenizer
from vega3d.questions import SpatialQuestion


def test_options_end_at_their_last_token():
    tokenizer = build_tokenizer(1024)
    lettered = ["A. dining table", "B. table", "C. front-left", "D. 2.5"]
    asked = SpatialQuestion(None, "Which is it?", [option.partition(". ")[2] for option in lettered])
    prompt = f"{asked.prompt}<|im_end|>\n"
    ids, (newline,) = np.array(tokenizer.encode(prompt)), tokenizer.encode("\n")
    ends = option_ends(ids, newline, len(lettered))
    assert [tokenizer.decode(ids[: end + 1]).split("\n")[-1] for end in ends] == lettered


def test_options_of_packs_are_told_whether_they_are_right(toy):
    data = toy.data("train", 1)
    make = PackMaker(toy.tools(), data, toy.recipe.base, 0)
    told = 0

    for step in range(4):
        _, packed, _ = make(step)
        for row, rows in enumerate(make.batches.rows(step)):
            at = np.flatnonzero(packed.is_right[row] != IGNORED)
            asked = [data.rows[number] for number in rows]
            wanted = [letter == one.answer for one in asked for letter in string.ascii_uppercase[: len(one.options)]]
            assert packed.is_right[row, at].tolist() == wanted
            segments = [number for number, one in enumerate(asked, start=1) for _ in one.options]
            assert packed.segments[row, at].tolist() == segments
            texts = [option for one in asked for option in one.options]
            for place, text in zip(at, texts, strict=True):
                last = toy.tools().words.tokenizer.decode([packed.ids[row, place]])
                assert text.endswith(last.strip())
            told += len(at)

    assert told


def test_the_head_tells_right_from_wrong_and_is_still_without_options():
    torch.manual_seed(0)
    head, states, is_right = OptionHead(16), torch.randn(2, 12, 16), torch.full((2, 12), IGNORED)
    assert head.loss(states, is_right) == 0
    is_right[0, 2:6], is_right[1, 4] = torch.tensor([0, 0, 1, 0]), 1
    assert fit(head.parameters(), lambda: head.loss(states, is_right)) < 0.05
    states[1, 4] *= -1
    assert head.loss(states, is_right) > 0.5
