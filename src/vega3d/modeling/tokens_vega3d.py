"""Tokens that the models of tasks add to a VLM, and the prompts that end with them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def add_tokens(model: Any, tokenizer: Any, tokens: Mapping[str, str], seed: int) -> dict[str, int]:
    """Gives tokenizer and embeddings new tokens, and returns their ids.

    A new token's embedding is drawn about the mean of all, with their spread, and its row of the output head is the
    mean, so that it is not generated. Tokens that the tokenizer has keep their rows.

    Args:
        model: a `VegaTaskModel`.
        tokens: the token of each field of the config that holds its id.
    """
    known = tokenizer.get_vocab()
    new = [token for token in tokens.values() if token not in known]
    tokenizer.add_special_tokens({"extra_special_tokens": new}, replace_extra_special_tokens=False)
    ids = tokenizer.convert_tokens_to_ids(list(tokens.values()))
    vlm: Any = model.model.vlm
    old_rows = vlm.get_input_embeddings().num_embeddings
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        if max(ids) >= old_rows:
            vlm.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
            model.config.get_text_config().vocab_size = max(ids) + 1
        embeddings, head = vlm.get_input_embeddings().weight, vlm.get_output_embeddings().weight
        for token in new:
            row = tokenizer.convert_tokens_to_ids(token)
            written = embeddings[: min(old_rows, len(known))].float()
            drawn = torch.randn(written.shape[1]).to(written)
            if head is not embeddings:
                head[row] = head[: len(written)].float().mean(0).to(head)
            embeddings[row] = (written.mean(0) + written.std(0) * drawn).to(embeddings)
    return dict(zip(tokens, ids, strict=True))


def checked_words(processor: Any, words: Any, what: str, kind: str, reserved: Sequence[str]) -> str:
    """Words for a prompt without white space around them; `what` names them, `kind` says what they must be.

    Raises ValueError for words that are empty, or that hold one of the `reserved` tokens or placeholders of visuals.
    """
    if not isinstance(words, str) or not words.strip():
        raise ValueError(f"{what} is {words!r}, but must be {kind}.")
    held = [token for token in (processor.image_token, processor.video_token, *reserved) if token in words]
    if held:
        raise ValueError(f"{what} {words!r} holds the special token {held[0]}. Leave it out.")
    return words.strip()


def prompt_text(processor: Any, content: Sequence[Mapping[str, str]], ending: str) -> str:
    """The prompt of what a user says, `content` as in a message, and the tokens that stand in place of the answer."""
    messages = [{"role": "user", "content": list(content)}]
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) + ending
