"""What a study stands on, before a GPU is taken: from bearings in words, one layer learns to say the direction."""

import numpy as np
import torch
import torch.nn.functional as F

from research.tiny.simulator.muon import Muon
from research.tiny.study.answers import FloorPlan, Place
from research.tiny.study.vlm import VLMRecipe, build_tokenizer, build_vlm
from vega3d.rooms.questions.questions import DIRECTION_MARGIN, SECTORS, bearing, sector

QUESTIONS, BATCH, TESTED = 40_000, 32, 1_000
NAMES = ("bed", "lamp", "tv")


def direction(random: np.random.Generator) -> str:
    """A direction question as its answer gives it: the choices, two bearings, and the word."""
    while True:
        level = list(SECTORS)[random.integers(len(SECTORS))]
        places = random.uniform(-4, 4, (3, 2))
        word = sector(level, float(bearing(*places)), DIRECTION_MARGIN)
        if word is None:
            continue
        # On the plan of a camera at the origin that looks along y: ahead is y, right is x.
        plan = FloorPlan({name: Place(y, x, 0) for name, (x, y) in zip(NAMES, places, strict=True)})
        bearings = ", ".join(plan.bearing(NAMES[0], name) for name in NAMES[1:])
        return f"{', '.join(SECTORS[level])}; {bearings}: {word}"


class AtPlaces(torch.nn.Module):
    """An MLP where its result is looked at, and 0 elsewhere: in the last layer the other tokens' results are not."""

    def __init__(self, mlp: torch.nn.Module):
        super().__init__()
        self.mlp, self.places = mlp, torch.zeros(0, 0, dtype=torch.bool)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        result = torch.zeros_like(states)
        result[self.places] = self.mlp(states[self.places])
        return result


def test_one_layer_learns_words_from_bearings_in_40000_questions():
    tokenizer = build_tokenizer(2048)
    recipe = VLMRecipe(hidden=160, layers=1, intermediate=640, vision_hidden=32, vision_depth=1, vocabulary=2048)
    model = build_vlm(recipe, tokenizer)
    language, embeddings = model.model.language_model, model.get_input_embeddings()
    mlp = language.layers[0].mlp = AtPlaces(language.layers[0].mlp)
    matrices = [value for value in language.layers.parameters() if value.ndim > 1]
    others = [value for value in language.parameters() if all(value is not matrix for matrix in matrices)]
    groups = [
        {"params": matrices, "muon": True, "lr": 7e-3, "weight_decay": 0.0},
        {"params": others, "lr": 1e-3, "weight_decay": 0.0},
    ]
    optimizer = Muon(groups, lr=0.0, betas=(0.9, 0.98))
    peaks = [group["lr"] for group in groups]
    random = np.random.default_rng(0)
    texts = [direction(random) for _ in range(QUESTIONS + TESTED)]

    def losses(some: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss of the words, and for each text whether all tokens of its word are right."""
        batch = tokenizer(some, return_tensors="pt", padding=True, add_special_tokens=False)
        heads = tokenizer([text.rpartition(":")[0] + ":" for text in some], add_special_tokens=False)["input_ids"]
        words = batch["attention_mask"].sum(1) - torch.tensor([len(head) for head in heads])
        wanted = batch["input_ids"][:, 1:]
        is_word = torch.arange(wanted.shape[1]) >= wanted.shape[1] - words[:, None]
        mlp.places = F.pad(is_word, (0, 1))
        states = language(inputs_embeds=embeddings(batch["input_ids"]), attention_mask=batch["attention_mask"])
        logits = model.lm_head(states.last_hidden_state[:, :-1][is_word])
        is_wrong = torch.zeros(wanted.shape, dtype=torch.bool)
        is_wrong[is_word] = logits.argmax(-1) != wanted[is_word]
        return F.cross_entropy(logits, wanted[is_word]), ~is_wrong.any(dim=1)

    steps = QUESTIONS // BATCH
    for step in range(steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * min(1.0, (step + 1) / 30) * (1 - step / steps)
        loss, _ = losses(texts[step * BATCH : (step + 1) * BATCH])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = torch.cat([losses(texts[start : start + 500])[1] for start in range(QUESTIONS, len(texts), 500)])

    assert right.float().mean() > 0.9
