"""Settings files that are made to harm, or that say two things."""

import time
from pathlib import Path

import pytest

from vega3d.configs import checked, read_mapping, refuse_unknown, shown


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
    started = time.monotonic()

    with pytest.raises(ValueError, match=told) as error:
        read_seed(tmp_path / "settings.yaml", text)

    assert time.monotonic() - started < 5
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
