"""Settings files that are made to harm, or that say two things."""

import re
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from vega3d.configs import check_range, checked, make_settings, read_mapping, read_settings, refuse_unknown, shown


@dataclass(frozen=True, kw_only=True)
class Stage:
    steps: int
    rate: float = 1e-3
    kinds: tuple[Literal["clip", "frame"], ...] = ("clip",)

    def __post_init__(self):
        check_range(self, "steps", least=1, most=1000)
        check_range(self, "rate", above=0, below=1)


@dataclass(frozen=True, kw_only=True)
class Study:
    output: Path
    stage: Stage
    second: Stage | None = None
    arms: dict[str, Stage] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    options: dict[str, Any] = field(default_factory=dict)


make_study = partial(make_settings, Study)


def aliases(inner: str, outer: str) -> str:
    """Nine levels, of which each names the one before nine times."""
    levels = [f"a0: &a0 {inner}"]
    levels += [f"a{n}: &a{n} {outer.replace('?', ', '.join([f'*a{n - 1}'] * 9))}" for n in range(1, 9)]
    return "\n".join([*levels, "seed: *a8"])


def read_seed(path: Path, text: str) -> int:
    path.write_text(text)
    return checked("seed", read_mapping(path, "seed: 0")["seed"], int)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (aliases("[1, 1]", "[?]"), "seed is .* must be a whole number"),
        (aliases("{b: 1}", "{b: 1, <<: [?]}"), "at most 1000 are read"),
        ("seed: &a [*a]", "seed is .* must be a whole number"),
        ("seed: &a {a: *a}", "seed is .* must be a whole number"),
        (f"seed: 0x{'f' * 9000}", "a whole number of 36000 bits"),
        (f"seed: {'9' * 5000}", "cannot be read"),
        (f"seed: {'x' * 100_000}", "seed is .* must be a whole number"),
        (f"seed: {'[' * 20_000}", "nested too deeply"),
        ("seed: 2026-01-01", r"seed is datetime\.date.* must be a whole number"),
        ("seed: 2026-13-41", "cannot be read"),
        ('seed: !!int ""', "cannot be read"),
        ('seed: !!timestamp "x"', "cannot be read"),
        ("seed: !!python/object/apply:os.getcwd []", "cannot be read"),
        ("seed: .nan", "must be a whole number"),
        ("seed: 1\nseed: 2", "'seed' is given twice"),
        ("vae: {steps: 1, steps: 2}\nseed: 1", "'steps' is given twice"),
        ("seed: 1\n---\nseed: 2", "cannot be read"),
    ],
)
def test_a_short_file_is_refused_in_short_time_and_words(tmp_path, text, told):
    started = time.process_time()

    with pytest.raises(ValueError, match=told) as error:
        read_seed(tmp_path / "settings.yaml", text)

    assert time.process_time() - started < 5
    assert len(str(error.value)) < 2000


def test_values_may_be_named_and_merged(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("usual: &usual {steps: 5, rate: 1e-3}\nvae: {<<: *usual, steps: 7}\n")

    assert read_mapping(path, "seed: 0")["vae"] == {"steps": 7, "rate": "1e-3"}


def test_a_file_that_is_too_large_or_none_is_refused(tmp_path):
    (tmp_path / "large.yaml").write_text("# " + "x" * 1_000_000)

    for name in ("large.yaml", "none.yaml", "."):
        with pytest.raises(ValueError, match="cannot be read"):
            read_mapping(tmp_path / name, "seed: 0")


@pytest.mark.parametrize(("value", "hint"), [(10**400, float), (1 << 63, int), (-(1 << 200), int), ("a\0b", Path)])
def test_numbers_and_paths_that_nothing_takes_are_refused(value, hint):
    with pytest.raises(ValueError, match=r"^seed is "):
        checked("seed", value, hint)


def test_a_long_name_is_not_repeated_in_full():
    with pytest.raises(ValueError, match="There is no setting") as error:
        refuse_unknown({"x" * 10**6: 1}, ["seed"])

    assert len(str(error.value)) < 500
    assert shown(["a"]) == "['a']"


def test_a_dataclass_is_read_from_a_file_and_what_is_set_beside_it(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "output: out\nstage: {steps: 5}\narms: {a: {steps: 1}}\nrates: {gate: 1e-2}\noptions: {any: [1]}\n"
    )

    study = read_settings(
        make_study, path, {"stage.rate": "1e-4", "arms.a.kinds": ["frame"], "seeds": (1, 2), "rates.llm": 1}
    )

    assert study == Study(
        output=Path("out"),
        stage=Stage(steps=5, rate=1e-4),
        arms={"a": Stage(steps=1, kinds=("frame",))},
        rates={"gate": 1e-2, "llm": 1.0},
        seeds=[1, 2],
        options={"any": [1]},
    )
    assert make_settings(Study, vars(study)) == study


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": None}, "^The config does not say stage.$"),
        ({"stage": {}}, "^The config does not say stage.steps.$"),
        (
            {"stage.step": 1},
            "^There is no setting 'stage.step'. Did you mean 'stage.steps'[?] Settings are steps, rate",
        ),
        ({"stage": [1]}, r"^stage is \[1\], but must hold names with values.$"),
        ({"seeds.a": 1}, r"^seeds is \[0\], but must hold names with values.$"),
        ({"arms.a.steps": "x"}, "^arms.a.steps is 'x', but must be a whole number.$"),
        ({"arms": {1: {}}}, "^arms is .*, but must hold names with values.$"),
        ({"second": {"steps": 0}}, "^second.steps is 0, but must be at least 1.$"),
        ({"stage.steps": 1001}, "^stage.steps is 1001, but must be at most 1000.$"),
        ({"stage.rate": 0}, "^stage.rate is 0.0, but must be above 0.$"),
        ({"stage.rate": 1}, "^stage.rate is 1.0, but must be below 1.$"),
        (
            {"stage.kinds": ["clip", "clips"]},
            r"^stage.kinds\[1\] is 'clips', but must be one of \['clip', 'frame'\].$",
        ),
        ({"seeds": "12"}, "^seeds is '12', but must be a list.$"),
        ({"rates": {"gate": "much"}}, "^rates.gate is 'much', but must be a number.$"),
        ({"output": None}, "^The config does not say output.$"),
        ({"seeds": None}, "^seeds is None, but must be a list.$"),
    ],
)
def test_a_bad_setting_is_named_with_file_value_and_what_is_wanted(tmp_path, changes, message):
    path = tmp_path / "study.yaml"
    path.write_text("output: out\nstage: {steps: 5}\nseeds: [0]\n")

    with pytest.raises(ValueError) as error:
        read_settings(make_study, path, changes)

    place, _, told = str(error.value).partition(": ")
    assert place == f"{path} (with {', '.join(changes)} changed)"
    assert re.search(message, told) and "\n" not in told
