"""Greedy answers to many questions at once, for the evaluation's own result files."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import DynamicCache

from research.tiny.study.data import Words
from research.tiny.study.packs import Prefix
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.inference.answer import letter_probabilities
from vega3d.modeling.modeling_vega3d import VegaTaskModel
from vega3d.questions import ReasonedAnswer, reason_and_answer

NEW_TOKENS = 112  # the most of an answer; the longest in words has some 85
CLIPS_AT_A_TIME = {"cpu": 16, "cuda": 48}  # keys and values of 96 filled a card that two trainings share
QUESTIONS_AT_A_TIME = 16  # about one clip

TokensOf = Callable[[list[int]], torch.Tensor]


class PackedAnswerer:
    """Answers as `evaluation.answerers.ModelAnswerer` does, from the fused tokens float[B, N, D] of clips by number.

    The visual tokens of a clip go through the language model once; all questions about it continue from there.
    """

    def __init__(
        self,
        model: VegaTaskModel,
        words: Words,
        prefix: Prefix,
        tokens_of: TokensOf,
        settings: dict,
        precision: torch.dtype = torch.float32,
    ):
        self.model, self.words, self.prefix, self.tokens_of = model, words, prefix, tokens_of
        self.settings, self.precision = settings, precision  # settings are for the result file, with a `name`
        self.end, self.pad = words.tokenizer.eos_token_id, words.tokenizer.pad_token_id

    def answer(self, records: Sequence[AnnotatedQuestion]) -> list[ReasonedAnswer]:
        """The answer of each record, the probabilities of its letters where they are said, and its reason."""
        answers = self.answer_prompts([(int(record.visual), record.prompt) for record in records])
        found: list[ReasonedAnswer] = []
        for record, (text, logits) in zip(records, answers, strict=True):
            reason, answer = reason_and_answer(text)
            found.append((answer, self._letters(record, text, logits) if record.options else None, reason))
        return found

    def _letters(self, record: AnnotatedQuestion, text: str, logits: torch.Tensor) -> dict[str, float]:
        """Probability of each letter where one was said; behind words it has a space before it."""
        space = " " if ". " in text else ""
        found = letter_probabilities(logits, [f"{space}{letter}" for letter in record.letters], self.words.tokenizer)
        return dict(zip(record.letters, found.values(), strict=True))

    @torch.no_grad()
    def answer_prompts(self, asked: Sequence[tuple[int, str]]) -> list[tuple[str, torch.Tensor]]:
        """For each clip and prompt the greedy answer, and float[V], the logits of its last token before the end."""
        prompts = self.words.prompts([prompt for _, prompt in asked])
        by_clip: dict[int, list[int]] = defaultdict(list)
        for number, (clip, _) in enumerate(asked):
            by_clip[clip].append(number)
        packs = [
            (clip, numbers[start : start + QUESTIONS_AT_A_TIME])
            for clip, numbers in by_clip.items()
            for start in range(0, len(numbers), QUESTIONS_AT_A_TIME)
        ]
        found: dict[int, tuple[np.ndarray, torch.Tensor]] = {}
        at_a_time = CLIPS_AT_A_TIME[self.model.device.type]
        for start in range(0, len(packs), at_a_time):
            some = packs[start : start + at_a_time]
            cache = self._read_clips([clip for clip, _ in some], [len(numbers) for _, numbers in some])
            numbers = [number for _, of_clip in some for number in of_clip]
            with torch.autocast(self.model.device.type, self.precision, enabled=self.precision != torch.float32):
                answers = self._written(cache, [prompts[number] for number in numbers])
            found.update(zip(numbers, answers, strict=True))
        texts = self.words.tokenizer.batch_decode([found[n][0] for n in range(len(asked))], skip_special_tokens=True)
        return [(text, found[number][1]) for number, text in enumerate(texts)]

    def _read_clips(self, clips: list[int], counts: list[int]) -> DynamicCache:
        """Keys and values of the prefix of each clip, once for each question about it."""
        device = self.model.device
        tokens = self.tokens_of(clips)
        ids = torch.from_numpy(self.prefix.ids).long().to(device).expand(len(clips), -1)
        embedded = self.model.get_input_embeddings()(ids)
        start, end = self.prefix.first, self.prefix.first + self.prefix.visual_tokens
        embedded = torch.cat([embedded[:, :start], tokens.to(embedded.dtype), embedded[:, end:]], dim=1)
        positions = torch.from_numpy(self.prefix.positions.copy()).to(device)[:, None].expand(-1, len(clips), -1)
        cache = DynamicCache()
        with torch.autocast(device.type, self.precision, enabled=self.precision != torch.float32):
            self._language(inputs_embeds=embedded, position_ids=positions, past_key_values=cache, use_cache=True)
        cache.batch_select_indices(torch.repeat_interleave(torch.tensor(counts, device=device)))
        return cache

    def _written(self, cache: DynamicCache, prompts: list[np.ndarray]) -> list[tuple[np.ndarray, torch.Tensor]]:
        """Token ids of each answer without its end, and the logits of the last of them; prompts are padded left."""
        device, start = self.model.device, len(self.prefix.ids)
        longest = max(map(len, prompts))
        ids = np.full((len(prompts), longest), self.pad, np.int64)
        known = np.zeros((len(prompts), longest), bool)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :], known[row, longest - len(prompt) :] = prompt, True
        given = torch.from_numpy(ids).to(device)
        seen = torch.cat([torch.ones(len(ids), start, dtype=torch.bool), torch.from_numpy(known)], dim=1).to(device)
        place = self.prefix.following + (torch.from_numpy(known).long().cumsum(1) - 1).clamp(min=0).to(device)
        causal = torch.ones(longest, start + longest, dtype=torch.bool, device=device).tril(start)
        mask = seen[:, None, None, :] & causal
        mask |= torch.eye(longest, dtype=torch.bool, device=device)[None, None] if not start else False
        tokens: list[torch.Tensor] = []
        kept: list[torch.Tensor] = []
        ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        for _ in range(NEW_TOKENS):
            states = self._language(
                input_ids=given,
                attention_mask=mask,
                position_ids=place.expand(3, -1, -1),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            logits = self.model.get_output_embeddings()(states[:, -1]).float()
            given = logits.argmax(-1, keepdim=True).masked_fill(ended[:, None], self.end)
            tokens.append(given[:, 0])
            kept.append(logits)
            ended = ended | (given[:, 0] == self.end)
            if bool(ended.all()):
                break
            seen = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
            mask, place = seen[:, None, None, :], place[:, -1:] + 1
        written = torch.stack(tokens, dim=1)
        lengths = (written != self.end).sum(dim=1)
        last = torch.stack(kept, dim=1)[torch.arange(len(written), device=device), (lengths - 1).clamp(min=0)].cpu()
        return [
            (row[:length].cpu().numpy(), logits)
            for row, length, logits in zip(written, lengths.tolist(), last, strict=True)
        ]

    @property
    def _language(self):
        return self.model.model.vlm.base_model.language_model
