import hashlib

import pytest
import xxhash

from vega3d.files import write_json
from vega3d.runs import check_same_run, check_same_settings, checksum, hash_folder, sha256, versions


def test_values_that_differ_are_named_as_they_were_and_are():
    found = {"seed": 0, "rooms": {"size": 64, "quality": "fast"}, "old": 1, "same": [1, 2]}
    wanted = {"seed": 1, "rooms": {"size": 96, "quality": "fast"}, "same": (1, 2)}

    with pytest.raises(ValueError) as error:
        check_same_run(found, wanted, "out is of another run", "Remove it.", {"seed": "Keep the seed.", "same": "No."})

    assert str(error.value) == (
        "out is of another run: seed was 0 and is 1; rooms.size was 64 and is 96; old was 1 and is None. Remove it. "
        "Keep the seed."
    )


def test_equal_runs_pass_whatever_json_made_of_them(tmp_path):
    write_json(tmp_path / "settings.json", {"sizes": (1, 2), "rates": {"gate": 0.1}})

    check_same_settings(tmp_path / "settings.json", {"rates": {"gate": 0.1}, "sizes": (1, 2), "cache": None})


def test_settings_that_cannot_be_read_are_of_an_unknown_run(tmp_path):
    (tmp_path / "settings.json").write_text("{")

    with pytest.raises(ValueError, match=r"holds checkpoints of unknown settings .*Give another output\.$"):
        check_same_settings(tmp_path / "settings.json", {})


def test_a_long_value_is_shortened():
    with pytest.raises(ValueError) as error:
        check_same_run({"prompt": "x" * 10**6}, {"prompt": "y" * 10**6}, "out", "Remove it.")

    assert len(str(error.value)) < 500


def test_hashes_are_of_contents_and_a_folders_of_names_too(tmp_path):
    (tmp_path / "a.json").write_bytes(b"1")

    first = hash_folder(tmp_path)
    (tmp_path / "notes.txt").write_bytes(b"not of the model")

    assert sha256(tmp_path / "a.json") == hashlib.sha256(b"1").hexdigest()
    assert checksum(tmp_path / "a.json") == xxhash.xxh3_128_hexdigest(b"1")
    assert hash_folder(tmp_path) == first
    (tmp_path / "a.json").rename(tmp_path / "b.json")
    assert hash_folder(tmp_path) != first


def test_versions_of_what_is_installed():
    found = versions("torch", "no-such-library")

    assert list(found) == ["vega3d", "python", "torch", "no-such-library"]
    assert found["torch"] and found["no-such-library"] is None
