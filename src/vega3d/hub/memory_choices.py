"""The ways to hold a model in less memory, by name: what becomes of its parts. Needs no torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from vega3d.configs import shown

Memory = Literal["full", "4bit", "low", "low-8bit", "int8", "int4", "fp8"]
Language = Literal["native", "nf4", "int8", "int4", "fp8"]


@dataclass(frozen=True)
class MemoryChoice:
    """What is done to a model on loading.

    Attributes:
        language: weights of the language model's linears: as stored (`native`), `nf4` of bitsandbytes, or `int8`,
            `int4` and `fp8` of torchao.
        generator: weights of the generator's blocks: as stored (`native`), linears in `int8`, or `offload`: in host
            memory, and on the GPU one by one.
        slices: whether the VAE encodes one frame at a time.
    """

    language: Language = "native"
    generator: Literal["native", "int8", "offload"] = "native"
    slices: bool = False

    @property
    def package(self) -> str | None:
        """The package of an extra that it needs."""
        if self.language == "native":
            return None
        return "bitsandbytes" if self.language == "nf4" else "torchao"


CHOICES: dict[str, MemoryChoice] = {
    "full": MemoryChoice(),
    "4bit": MemoryChoice("nf4"),
    "low": MemoryChoice("nf4", "offload", slices=True),
    "low-8bit": MemoryChoice("nf4", "int8", slices=True),
    "int8": MemoryChoice("int8"),
    "int4": MemoryChoice("int4"),
    "fp8": MemoryChoice("fp8"),
}


def memory_choice(memory: Memory, four_bit: bool = False) -> Memory:
    """The name of the choice that `memory` and `four_bit` make together.

    Raises ValueError if there is none of this name, or the two contradict each other.
    """
    if memory not in get_args(Memory):
        raise ValueError(f"memory is {shown(memory)}, but must be one of {list(get_args(Memory))}.")
    if not four_bit:
        return memory
    if memory == "full":
        return "4bit"
    if CHOICES[memory].language != "nf4":
        raise ValueError(
            f"memory is {memory!r}, and 4 bits of bitsandbytes are asked for as well. Leave one of them out."
        )
    return memory
