"""What a cache must not touch, hang on, or keep: files of others, pipes, links, values that are no numbers."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from cache_writer import clip, forkserver, hidden, put_and_clear
from safetensors.torch import save_file
from typer.testing import CliRunner

import vega3d_cli
from vega3d import VegaForSpatialReasoning
from vega3d.features.cache import MARKER, FeatureCache, evict, list_entries

NAME = "ab" + 30 * "0"  # as an entry is called


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache")


def run(*arguments):
    return CliRunner().invoke(vega3d_cli.app, [str(argument) for argument in arguments])


def everything(cache: FeatureCache) -> None:
    """All that looks at every file, or removes some."""
    cache.stats()
    cache.verify()
    evict(cache.folder, 0)
    cache.clear()


FOREIGN = {
    "a folder with a name": "my-vega3d/model.safetensors",
    "a folder below a group": f"ab/my-vega3d/{NAME}.safetensors",
    "a name in a group": "ab/model.safetensors",
    "a name of another group": f"cd/{NAME}.safetensors",
    "capitals": f"AB/{NAME.upper()}.safetensors",
    "too long": f"ab/{NAME}0.safetensors",
    "three digits": f"abc/{NAME}.safetensors",
    "another suffix": f"ab/{NAME}.safetensors.bak",
    "a partial file of others": "ab/film.partial",
    "beside the groups": f"{NAME}.safetensors",
}


@pytest.mark.parametrize("name", FOREIGN.values(), ids=FOREIGN)
def test_files_of_others_stay(cache, name):
    file = cache.folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"weights")
    os.utime(file, (1, 1))

    everything(cache)

    assert file.read_bytes() == b"weights"


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_links_lead_to_stays(cache, tmp_path, kind):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file = elsewhere / f"{NAME}.safetensors"
    file.write_bytes(b"weights")
    if kind == "folder":
        (cache.folder / "ab").symlink_to(elsewhere)
    else:
        (cache.folder / "ab").mkdir()
        (cache.folder / "ab" / file.name).symlink_to(file)

    everything(cache)

    assert file.read_bytes() == b"weights" and (cache.folder / "ab").exists()


@pytest.mark.parametrize("name", [f"{NAME}.safetensors", "x.safetensors", f"{NAME}x.partial"])
def test_a_named_pipe_stops_nothing(cache, name):
    (cache.folder / "ab").mkdir()
    os.mkfifo(cache.folder / "ab" / name)

    everything(cache)

    assert (cache.folder / "ab" / name).is_fifo()


def test_a_named_pipe_in_the_place_of_an_entry_is_no_entry(cache):
    cache.put(clip(0), "identity", hidden(0))
    [entry] = list_entries(cache.folder)
    entry.path.unlink()
    os.mkfifo(entry.path)

    assert cache.get(clip(0), "identity") is None
    cache.put(clip(0), "identity", hidden(0))
    assert torch.equal(cache.get(clip(0), "identity"), hidden(0))


def test_entries_have_the_same_bytes_every_time(tmp_path):
    caches = [FeatureCache(tmp_path / str(number)) for number in range(12)]

    for cache in caches:
        cache.put(clip(1), "identity", hidden(1))

    entries = [entry for cache in caches for entry in list_entries(cache.folder)]
    assert len(entries) == 12 and len({entry.path.read_bytes() for entry in entries}) == 1


def test_an_entry_of_the_first_format_is_never_used(cache, tmp_path):
    cache.put(clip(0), "identity", hidden(0))
    [entry] = list_entries(cache.folder)
    facts = {"key": entry.path.stem, "clip": "c", "identity": "i", "checksum": "0"}
    save_file({"hidden": hidden(0)}, entry.path, facts)
    (cache.folder / MARKER).write_text('{"format": 1}')

    again = FeatureCache(cache.folder)

    assert again.get(clip(0), "identity") is None
    assert again.verify()["bad"] == 1 and not entry.path.exists()
    assert json.loads((cache.folder / MARKER).read_text()) == {"format": 2}  # no earlier version writes here now


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e39])
def test_values_that_are_no_numbers_are_not_kept(cache, value):
    features = torch.zeros(1, 2, 2, 4, dtype=torch.float64)
    features[0, 1, 0, 3] = value

    with pytest.raises(ValueError, match="1 of 16 features are NaN or infinite"):
        cache.put(clip(0), "identity", features)

    assert cache.stats()["entries"] == 0 and not list(cache.folder.rglob("*.partial"))


def test_features_of_a_broken_generator_are_refused(cache, checkpoint):
    generator = VegaForSpatialReasoning.from_pretrained(checkpoint).model.generator
    next(generator.tower.encoder.parameters()).data.fill_(float("nan"))

    with pytest.raises(ValueError, match=r"features of clip 0 .* are not finite"):
        cache.features(generator, [torch.zeros(1, 3, 32, 32, dtype=torch.uint8)])

    assert cache.stats()["entries"] == 0


def test_clearing_leaves_what_is_being_written(cache):
    cache.put(clip(0), "identity", hidden(0))
    [entry] = list_entries(cache.folder)
    young, old = (entry.path.with_name(f"{entry.path.stem}{name}.partial") for name in ("young", "old"))
    for path in (young, old):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 4000,) * 2)

    assert cache.clear() == 1

    assert young.exists() and not old.exists() and not entry.path.exists()


def exit_codes_of_eight(folder: Path) -> list[int | None]:
    """Of processes that get, put, and now and then clear the entries of one cache."""
    workers = [forkserver().Process(target=put_and_clear, args=(str(folder), seed)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [worker.exitcode for worker in workers]


def test_processes_that_get_put_and_clear_do_not_end_each_other(tmp_path):
    assert exit_codes_of_eight(tmp_path) == [0] * 8


@pytest.mark.stress
@pytest.mark.parametrize("round_number", range(30))
def test_processes_that_get_put_and_clear_do_not_end_each_other_many_times(tmp_path, round_number):
    assert exit_codes_of_eight(tmp_path) == [0] * 8


DEEP = 100_000 * "[" + 100_000 * "]"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "holds list"),
        ("null", "holds NoneType"),
        (DEEP, "nested too deeply"),
        ("{", "cannot be read"),
        ('{"format": true}', "has format True"),
        ('{"format": [1]}', r"has format \[1\]"),
        ('{"format": 99}', "has format 99"),
    ],
)
def test_markers_of_another_kind_are_refused(cache, content, message):
    (cache.folder / MARKER).write_text(content)

    with pytest.raises(ValueError, match=message):
        FeatureCache(cache.folder)


def test_a_named_pipe_as_marker_is_refused(tmp_path):
    os.mkfifo(tmp_path / MARKER)

    with pytest.raises(ValueError, match="is a named pipe"):
        FeatureCache(tmp_path)


@pytest.mark.parametrize("limit", ["inf", "-inf", "nan", "1e300", "-1", "0", "1e-300"])
def test_limits_that_cannot_be_are_refused(tmp_path, limit):
    done = run("cache", "--stats", "--cache", tmp_path / "c", "--max-gib", limit)

    assert done.exit_code == 2 and "--max-gib is" in done.output and "at most" in done.output
    assert len(done.output.strip().splitlines()) == 1 and not (tmp_path / "c").exists()


@pytest.mark.parametrize("limit", [0, -1, 1.5, float("nan"), float("inf"), True, 2**64])
def test_limits_in_bytes_are_whole_numbers(tmp_path, limit):
    with pytest.raises(ValueError, match="must be a whole number from 1"):
        FeatureCache(tmp_path, max_bytes=limit)
