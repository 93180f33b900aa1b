"""Greedy answers to many questions at once, for the evaluation's own result files."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch

from research.tiny.study.data import Words
from research.tiny.study.network import packed_states
from research.tiny.study.packs import Prefix, ends_of, pack
from vega3d.evaluation.vsibench import GENERATION, AnnotatedQuestion
from vega3d.inference.answer import letter_probabilities
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.questions import RawAnswer

NEW_TOKENS = int(GENERATION["max_new_tokens"])  # type: ignore[call-overload]
VISUALS_AT_A_TIME = 32
QUESTIONS_IN_A_PACK = 16

TokensOf = Callable[[list[int]], torch.Tensor]


class PackedAnswerer:
    """Answers as `evaluation.answerers.ModelAnswerer` does, from tokens that are there.

    Args:
        model: in eval mode.
        words: of its tokenizer.
        prefix: of the packs.
        tokens_of: float[B, N, D], fused tokens of visuals by their numbers.
        settings: for the result file, with a `name`.
        precision: of autocast; float32 for none.
    """

    def __init__(
        self,
        model: VegaForSpatialReasoning,
        words: Words,
        prefix: Prefix,
        tokens_of: TokensOf,
        settings: dict,
        precision: torch.dtype = torch.float32,
    ):
        self.model, self.words, self.prefix, self.tokens_of = model, words, prefix, tokens_of
        self.settings, self.precision = settings, precision
        self.end = words.tokenizer.eos_token_id

    def answer(self, records: Sequence[AnnotatedQuestion]) -> list[RawAnswer]:
        answers = self.answer_prompts([(int(record.visual), record.prompt) for record in records])
        tokenizer = self.words.tokenizer
        return [
            (text, letter_probabilities(logits, record.letters, tokenizer) if record.options else None)
            for record, (text, logits) in zip(records, answers, strict=True)
        ]

    @torch.no_grad()
    def answer_prompts(self, asked: Sequence[tuple[int, str]]) -> list[tuple[str, torch.Tensor]]:
        """
        Args:
            asked: number of the visual and prompt.

        Returns:
            For each the greedy answer, and float[V], the logits of its first token.
        """
        prompts = self.words.prompts([prompt for _, prompt in asked])
        by_visual: dict[int, list[int]] = defaultdict(list)
        for number, (visual, _) in enumerate(asked):
            by_visual[visual].append(number)
        packs = [
            (visual, numbers[start : start + QUESTIONS_IN_A_PACK])
            for visual, numbers in by_visual.items()
            for start in range(0, len(numbers), QUESTIONS_IN_A_PACK)
        ]
        ids: dict[int, np.ndarray] = {}
        first: dict[int, torch.Tensor] = {}
        for start in range(0, len(packs), VISUALS_AT_A_TIME):
            self._answer_packs(packs[start : start + VISUALS_AT_A_TIME], prompts, ids, first)
        texts = self.words.tokenizer.batch_decode([ids[n] for n in range(len(asked))], skip_special_tokens=True)
        return [(text, first[number]) for number, text in enumerate(texts)]

    def _answer_packs(self, packs, prompts, ids: dict[int, np.ndarray], first: dict[int, torch.Tensor]) -> None:
        """Writes token after token behind all questions of some packs; packs without open questions drop out."""
        tokens = self.tokens_of([visual for visual, _ in packs])
        for _, numbers in packs:
            ids.update({number: np.empty(0, np.int64) for number in numbers})
        end, left = self.end, list(range(len(packs)))
        for turn in range(NEW_TOKENS):
            questions = [[(prompts[number], ids[number]) for number in packs[place][1]] for place in left]
            logits = self._next_logits(tokens[left], questions)
            asked = [(place, number) for place in left for number in packs[place][1]]
            if turn == 0:
                first.update(zip((number for _, number in asked), logits.float().cpu(), strict=True))
            still = set()
            for (place, number), token in zip(asked, logits.argmax(-1).tolist(), strict=True):
                if not (len(ids[number]) and ids[number][-1] == end):
                    ids[number] = np.append(ids[number], token)
                if ids[number][-1] != end:
                    still.add(place)
            left = [place for place in left if place in still]
            if not left:
                return

    def _next_logits(self, tokens: torch.Tensor, questions) -> torch.Tensor:
        """float[Q, V], the logits of what follows each question, those of one visual after those of another."""
        device = tokens.device
        batch = pack(self.prefix, questions).to(device)
        ends = ends_of(self.prefix, questions)
        rows = torch.tensor([row for row, places in enumerate(ends) for _ in places], device=device)
        places = torch.tensor([place for row in ends for place in row], device=device)
        with torch.autocast(device.type, self.precision, enabled=self.precision != torch.float32):
            states = packed_states(self.model, tokens, batch, self.prefix)
            return self.model.get_output_embeddings()(states[rows, places])
