"""The card of a model: what it is made of, how to load it, what was measured, what it does not know."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import ModelCard, ModelCardData

from vega3d import VegaConfig, VegaForActionPrediction, VegaForSpatialReasoning, VegaForVisualGrounding
from vega3d.hub.assemble import describe
from vega3d.hub.tensor_files import Stored
from vega3d.publishing.scores import Benchmark, model_index, section

NAME = "README.md"
MADE_BY = "# by vega3d push, "  # first line of the metadata of a card that nobody has edited, with a hash of the rest
APACHE = "apache-2.0"
BASE_LICENSES = {  # of the pretrained models that `vega3d assemble` takes
    "Qwen/Qwen2.5-VL-3B-Instruct": "qwen-research",
    "Qwen/Qwen2.5-VL-7B-Instruct": APACHE,
    "Qwen/Qwen2.5-VL-32B-Instruct": APACHE,
    "Qwen/Qwen2.5-VL-72B-Instruct": "qwen",
    **{f"Qwen/Qwen3-VL-{size}-Instruct": APACHE for size in ("2B", "4B", "8B", "32B")},
    **{f"Wan-AI/Wan2.1-T2V-{size}-Diffusers": APACHE for size in ("1.3B", "14B")},
}
TAGS = ["vega3d", "spatial-reasoning", "video", "world-model", "arxiv:2603.19235"]
BODY = """# {name}

{opening}
Its visual tokens are fused with the hidden states of a frozen video diffusion model, the *world simulator*: the method
of VEGA-3D ([arXiv 2603.19235](https://arxiv.org/abs/2603.19235)), in an independent implementation, `vega3d`.
{notice}
## What it is made of

{parts}

Hidden states after block {block} at noise level {step} of 1000, `clip_mode` {clip_mode}; fusion `{fusion}`;
weights in {dtype}.
The world simulator is frozen, and is loaded from its own files, {source}.
{bases}
## How to load it

With transformers, diffusers, accelerate, torchvision and PyAV alone.
This runs the code in this repository: read it, and pin `revision=`.

```python
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{repo_id}", trust_remote_code=True, dtype="auto")
processor = AutoProcessor.from_pretrained("{repo_id}", trust_remote_code=True)
{python}
```

With `vega3d`, which runs no code of this repository:

```bash
{command}
```

## Measured results

{scores}

## Limits

{limits}

## Licence

{license}

## Citation of the method

```bibtex
@misc{{vega3d,
  title         = {{Generation Models Know Space: Unleashing Implicit 3D Priors for Scene Understanding}},
  year          = {{2026}},
  eprint        = {{2603.19235}},
  archivePrefix = {{arXiv}}
}}
```
"""
ANSWERS = """question = "How many chair(s) are in this room?"
content = [{"type": "video", "video": "kitchen.mp4"}, {"type": "text", "text": question}]
messages = [{"role": "user", "content": content}]
inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
answer = model.generate(**inputs.to(model.device), max_new_tokens=16)
print(processor.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))"""
OPENINGS: dict[type, str] = {
    VegaForSpatialReasoning: "A vision-language model that answers questions about the space that a video or an image "
    "shows.",
    VegaForVisualGrounding: "A vision-language model that answers questions about the space that a video or an image "
    "shows, and finds\nthe objects that an expression means, as boxes in 3D.",
    VegaForActionPrediction: "A policy: a vision-language model that reads the images of a robot's cameras, an "
    "instruction and its state, and\npredicts its next actions.",
}
COMMANDS: dict[type, str] = {
    VegaForSpatialReasoning: 'vega3d ask kitchen.mp4 "How many chair(s) are in this room?" --number --model {repo_id}',
    VegaForVisualGrounding: 'vega3d ground kitchen "the chair closest to the door" --model {repo_id}',
    VegaForActionPrediction: "vega3d act {repo_id} --replay DEMONSTRATIONS --output replay.mp4",
}
NOT_MEASURED = (
    "None. Measure it with `vega3d evaluate {repo_id} --output result.json`, and push with `--results result.json`."
)


class CardFacts(NamedTuple):
    """What a card says beside what stands in the model's folder."""

    repo_id: str
    task: type  # of the model's class
    license: str
    base_models: Sequence[str]  # Hub ids
    benchmarks: Sequence[Benchmark]
    datasets: Mapping[str, str]  # benchmark: Hub id of its questions


def model_card(folder: Path, config: VegaConfig, weights: Stored, facts: CardFacts) -> str:
    """The whole card of a model's folder; text of the user's own is kept, and its metadata completed."""
    own = read_card(folder)
    if own is not None:
        return str(completed(own, facts))
    described, task = describe(folder), facts.task
    parts = [f"| {part} | {count:,} |" for part, count in described["parameters"].items()]
    generator = config.generator_config
    text = BODY.format(
        name=facts.repo_id.rpartition("/")[2],
        notice=f"\n{config.notice}\n" if config.notice else "",
        opening=OPENINGS[task],
        python=predicted_actions(config) if task is VegaForActionPrediction else ANSWERS,
        command=COMMANDS[task].format(repo_id=facts.repo_id),
        parts="\n".join(["| part | parameters |", "|---|---|", *parts]),
        source=f"`{generator.source}/`"
        if generator.is_relative
        else f"those of [{generator.source}]({link(generator.source)})",
        bases=base_text(facts.base_models),
        scores="\n\n".join(section(one, facts.repo_id) for one in facts.benchmarks)
        or ("None." if task is VegaForActionPrediction else NOT_MEASURED.format(repo_id=facts.repo_id)),
        limits="\n".join(f"- {line}" for line in limits(config, weights)),
        license=license_text(facts),
        repo_id=facts.repo_id,
        **{name: described[name] for name in ("block", "step", "clip_mode", "fusion", "dtype")},
    )
    return signed(str(completed(ModelCard(f"---\n{{}}\n---\n{text}"), facts)))


def completed(card: ModelCard, facts: CardFacts) -> ModelCard:
    """The card with what its metadata lacks; results and licence are those of this push."""
    data = card.data.to_dict()
    data = {
        "library_name": "transformers",
        "pipeline_tag": "robotics" if facts.task is VegaForActionPrediction else "image-text-to-text",
        "tags": TAGS,
        **({"base_model": list(facts.base_models)} if facts.base_models else {}),
        **data,
        "license": facts.license,
    }
    if facts.benchmarks:
        data.pop("model-index", None)
        named = facts.repo_id.rpartition("/")[2]
        data |= {"model_name": named, "eval_results": model_index(facts.benchmarks, facts.datasets)}
    card.data = ModelCardData(**data)
    return card


# --- Whose card it is ------------------------------------------------------------------------------------------------


def read_card(folder: Path) -> ModelCard | None:
    """The card in a folder that is the user's own; None if there is none, or one that `vega3d push` wrote unedited."""
    file = folder / NAME
    if not file.is_file():
        return None
    try:
        text = file.read_text(encoding="utf-8")
        return None if is_unedited(text) else ModelCard(text)
    except Exception as error:  # of YAML, too, whose errors have no common class with ours
        raise ValueError(
            f"{file} is no card: {' '.join(str(error).split())}. Mend it, or remove it for a new one."
        ) from error


def signed(card: str) -> str:
    """The card with a hash of itself, so that an edited one is known, and kept."""
    opening, _, rest = card.partition("\n")
    return f"{opening}\n{MADE_BY}{digest(opening + rest)}\n{rest}"


def is_unedited(card: str) -> bool:
    opening, _, rest = card.partition("\n")
    mark, _, rest = rest.partition("\n")
    return mark == f"{MADE_BY}{digest(opening + rest)}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- Parts of its text -----------------------------------------------------------------------------------------------


def predicted_actions(config: VegaConfig) -> str:
    """Lines of Python that ask a policy, by its own cameras."""
    images = ", ".join(f'"{name}": image_{number}' for number, name in enumerate(config.action_cameras or ()))
    frames = f"{config.action_frames}, " if config.action_frames > 1 else ""
    return (
        f"images = {{{images}}}  # uint8[{frames}H, W, 3]; state: float[{config.state_size}]\n"
        'print(model.predict_actions(processor, images, "open the window", state))'
    )


def link(repo_id: str) -> str:
    return f"https://huggingface.co/{repo_id}"


def base_text(base_models: Sequence[str]) -> str:
    if not base_models:
        return "\nThe pretrained models that it was made from are not recorded.\n"
    rows = [f"| [{name}]({link(name)}) | {BASE_LICENSES.get(name, 'see its page')} |" for name in base_models]
    return "\n".join(["", "| pretrained model | licence |", "|---|---|", *rows, ""])


def license_text(facts: CardFacts) -> str:
    own = f"This repository: {facts.license}."
    others = [f"{name}: {BASE_LICENSES.get(name, 'see its page')}." for name in facts.base_models]
    rest = ["Those of the pretrained models apply to what was taken from them.", *others] if others else []
    return " ".join([own, *rest])


def limits(config: VegaConfig, weights: Stored) -> list[str]:
    """What the model cannot do, as far as its files say."""
    lines = []
    scale = weights.get("model.fusion.residual_scale")
    if scale is not None and not scale.read().any():
        lines.append(
            "The fusion is untrained: its residual scale is 0, so it answers exactly as its vision-language model."
        )
    if config.action_statistics:
        data = config.action_statistics["dataset"]
        lines.append(f"It knows the robot and the cameras of {data}, whose units its states and actions have.")
        return [*lines, *filter(None, [config.notice])]
    if config.questions:
        names, forms = config.questions.get("names") or [], config.questions.get("forms") or []
        lines.append(
            f"It was trained on {len(forms)} forms of questions about {len(names)} names of objects. It answers "
            "others, too, and says that it was not trained on them; such answers mean nothing."
        )
    else:
        lines.append("Which questions it was trained on is not recorded in its files.")
    if config.notice:
        lines.append(config.notice)
    lines.append("Scores hold for the questions that are named above, and for no other rooms, cameras or wordings.")
    return lines


def license_of(folder: Path, given: str | None, base_models: Sequence[str]) -> str:
    """The licence of a push: the one given, that of the user's card, or that of all pretrained models.

    Raises ValueError if there is none, or what was given is no name of one.
    """
    if given is not None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.\-]{0,60}", given):
            raise ValueError(f"--license is {given!r}, but must be a licence as the Hub names it, such as {APACHE}.")
        return given
    card: Any = read_card(folder)
    if card is not None and card.data.get("license"):
        return str(card.data.get("license"))
    if base_models and all(BASE_LICENSES.get(name) == APACHE for name in base_models):
        return APACHE
    named = ", ".join(f"{name} ({BASE_LICENSES.get(name, 'not known')})" for name in base_models) or "none named"
    raise ValueError(
        f"The licence is to be chosen, as the pretrained models do not decide it: {named}. Give --license, such as "
        f"{APACHE}, and name the pretrained models with --base-model."
    )
