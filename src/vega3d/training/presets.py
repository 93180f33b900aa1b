"""Settings that go together, by name: what is trained, and in how much memory. Reading them needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from vega3d.configs import shown

PresetName = Literal["gate-only", "lora", "qlora", "full"]


@dataclass(frozen=True)
class Preset:
    """Values of `TrainingConfig`, and what the name promises whatever else is set.

    Attributes:
        meaning: what is trained, for messages and tables.
        values: that hold where a config does not say otherwise.
        needs: parts that are trained under this name.
        excludes: parts that are not.
        four_bit: whether the language model is in 4 bits.
    """

    meaning: str
    values: Mapping[str, Any]
    needs: Sequence[str]
    excludes: Sequence[str] = field(default=())
    four_bit: bool = False


NEW_PARTS = ("gate", "projector")
PRESETS: dict[str, Preset] = {
    "gate-only": Preset(
        "the new parts alone, fusion and projector; both pretrained models are frozen",
        {"tune": NEW_PARTS, "gradient_checkpointing": True},
        needs=("gate",),
        excludes=("llm", "llm-lora", "vision"),
    ),
    "lora": Preset(
        "the new parts, and adapters on the language model",
        {"tune": (*NEW_PARTS, "llm-lora"), "gradient_checkpointing": True},
        needs=("llm-lora",),
        excludes=("llm",),
    ),
    "qlora": Preset(
        "as lora, with the frozen language model in 4 bits",
        {"tune": (*NEW_PARTS, "llm-lora"), "four_bit": True, "gradient_checkpointing": True},
        needs=("llm-lora",),
        excludes=("llm",),
        four_bit=True,
    ),
    "full": Preset(
        "everything but the generator",
        {"tune": (*NEW_PARTS, "llm", "vision"), "gradient_checkpointing": True},
        needs=("llm",),
        excludes=("llm-lora",),
    ),
}


def with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a config with those of its `preset` where they say nothing; raises ValueError for an unknown one."""
    name = values.get("preset")
    if name is None:
        return dict(values)
    if name not in get_args(PresetName):
        listed = "; ".join(f"{known} ({preset.meaning})" for known, preset in PRESETS.items())
        raise ValueError(f"There is no preset {shown(name)}. Presets are {listed}.")
    return {**PRESETS[name].values, **values}


def check_preset(name: str | None, tune: Sequence[str], four_bit: bool) -> None:
    """Raises ValueError if settings contradict the preset that they are under."""
    if name is None:
        return
    preset = PRESETS[name]
    missing = [part for part in preset.needs if part not in tune]
    excluded = [part for part in preset.excludes if part in tune]
    if missing or excluded:
        wrong = f"leaves out {missing[0]!r}" if missing else f"names {excluded[0]!r}"
        raise ValueError(
            f"preset is {name!r} ({preset.meaning}), but tune is {list(tune)}, which {wrong}. Leave one of the two "
            "out, or take another preset."
        )
    if four_bit != preset.four_bit:
        other = "qlora" if four_bit else "lora"
        remedy = f"Take the preset {other!r}" if "llm-lora" in preset.needs else "Leave four_bit out"
        raise ValueError(f"preset is {name!r} ({preset.meaning}), but four_bit is {four_bit}. {remedy}.")
