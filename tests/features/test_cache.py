"""The cache of hidden states: keys, hits, damage, eviction, many processes, kills."""

import json
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from cache_writer import clip as small_clip
from cache_writer import fill, fill_for_ever, forkserver
from cache_writer import hidden as small_hidden
from safetensors.torch import load_file, save_file

from forks import run_forked
from tiny_inputs import IMAGE, SHORT_VIDEO, VIDEO, batch
from vega3d.features.cache import FeatureCache, list_entries
from vega3d.features.identity import clip_hash, entry_key, feature_identity


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache")


@pytest.fixture(scope="module")
def generator(model):
    return model.model.generator


def clip(frames: int = 3, seed: int = 0) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, 3, 32, 48), dtype=torch.uint8, generator=noise)


class Counted:
    """Counts the clips that a generator really encodes."""

    def __init__(self, generator, monkeypatch):
        self.count = 0
        encode = generator.tower.encode_frames

        def counting(frames):
            self.count += 1
            return encode(frames)

        monkeypatch.setattr(generator.tower, "encode_frames", counting)


def test_a_hit_equals_the_features_rounded_to_bf16(cache, generator, monkeypatch):
    clips = [clip(3, 1), clip(2, 2)]
    expected = [hidden.bfloat16() for hidden in generator.encode(clips)]
    counted = Counted(generator, monkeypatch)
    missed = cache.features(generator, clips)
    hit = FeatureCache(cache.folder).features(generator, clips)
    assert counted.count == 2
    for ours in (missed, hit):
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_every_option_that_changes_features_changes_the_key(generator):
    changes = [
        {"block": 0},
        {"timestep": 500},
        {"noise_seed": 1},
        {"noise_shared": True},
        {"noise_draws": 2},
        {"clip_mode": "views"},
        {"frame_stride": 2},
        {"shift": 3.0},
        {"prompt_length": 100},
        {"extra_blocks": [0]},
        {"family": "random"},
        {"family": "random", "random_seed": 1},
        {"family": "noise"},
        {"family": "vae"},
    ]
    identities = [feature_identity(generator)] + [feature_identity(generator.variant(**change)) for change in changes]
    other_weights = generator.variant()
    other_weights.config.files_hash = "0" * 64
    other_prompt = generator.variant()
    other_prompt.prompt_embeds = generator.prompt_embeds + 1
    other_dtype = generator.variant()
    other_dtype.load_files(generator.files, torch.bfloat16)
    identities += [feature_identity(other) for other in (other_weights, other_prompt, other_dtype)]

    assert len(set(identities)) == len(identities)
    for same in ({"compile": True}, {"chunk_frames": 1}, {"random_seed": 5}):
        assert feature_identity(generator.variant(**same)) == identities[0]


def test_a_cache_of_an_earlier_commit_is_read():
    """The name of an entry is the format of the cache: another one would make each cache on disk worthless."""
    frames = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)

    assert clip_hash(frames) == "72918f1c0fa4360cd235f8155aad6c56"
    assert entry_key(clip_hash(frames), "identity") == "323e1f4893ba4b4d7aab7ccd8fa39a9d"


def test_the_identity_has_the_parts_that_caches_on_disk_know(generator):
    parts = "blocks clip_mode configs diffusers dtype family files format linear_precision noise prompt random_seed "
    assert list(json.loads(feature_identity(generator))) == [*parts.split(), "sigma", "step", "weights"]


def test_every_pixel_type_and_shape_counts(cache):
    frames = clip(2)
    cache.put(frames, "identity", torch.zeros(2, 2, 3, 4))
    changed = frames.clone()
    changed[1, 2, 31, 47] ^= 1
    others = [changed, frames[:1], frames.flip(0), frames.reshape(2, 3, 48, 32), frames.float() / 127.5 - 1]
    assert cache.get(frames.clone(), "identity") is not None
    assert all(cache.get(other, "identity") is None for other in others)
    assert cache.get(frames, "another identity") is None


def test_several_blocks_and_levels_in_one_pass(cache, generator, monkeypatch):
    frames = clip(3)
    deep = generator.variant(block=1)
    expected = {k: {b: h.bfloat16() for b, h in hidden.items()} for k, hidden in deep.read(frames, [0, 1], [100, 300])}

    counted = Counted(deep, monkeypatch)

    for _ in range(2):
        found = dict(cache.read(deep, frames, [0, 1], [100, 300]))
        assert list(found) == [100, 300]
        assert all(torch.equal(found[k][b], expected[k][b]) for k in expected for b in (0, 1))
    assert counted.count == 1

    single = FeatureCache(cache.folder).features(generator.variant(block=0, timestep=100), [frames])
    assert torch.equal(single[0], expected[100][0])

    list(cache.read(deep, frames, [0, 1], [100, 700]))  # one level is new
    assert counted.count == 2
    assert cache.stats()["entries"] == 6


@pytest.mark.parametrize("visual", [VIDEO, IMAGE, SHORT_VIDEO])
def test_cached_inputs_give_the_online_answer(cache, model, visual):
    inputs = batch([5, visual, 7, 8])
    online = model(**inputs).logits
    identity = feature_identity(model.model.generator)
    patch_size = model.config.generator_config.patch_size
    assert "generator_hidden_states" not in cache.attach(inputs, identity, patch_size)
    filled = cache.fill(model, inputs)
    assert not any(name.startswith("generator_pixel") for name in filled)
    torch.testing.assert_close(model(**filled).logits, online, atol=0.02, rtol=0)
    attached = cache.attach(inputs, identity, patch_size)
    assert torch.equal(model(**attached).logits, model(**filled).logits)


def test_images_come_before_videos(cache, model):
    inputs = batch([5, VIDEO, IMAGE, 7], [SHORT_VIDEO, 3])
    filled = cache.fill(model, inputs)
    assert [tuple(hidden.shape[:3]) for hidden in filled["generator_hidden_states"]] == [
        IMAGE.generator_grid,
        VIDEO.generator_grid,
        SHORT_VIDEO.generator_grid,
    ]
    torch.testing.assert_close(model(**filled).logits, model(**inputs).logits, atol=0.02, rtol=0)


def test_text_alone_needs_no_features(cache, model):
    inputs = batch([5, 6, 7])
    assert cache.fill(model, inputs).keys() == inputs.keys()


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[:-7])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "one bit":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif how == "garbage":
        path.write_bytes(os.urandom(len(content)))
    elif how == "other type":
        save_file({"hidden": load_file(path)["hidden"].float()}, path)
    elif how == "other entry":
        other = FeatureCache(path.parents[2] / "other")
        other.put(clip(3, 9), "identity", torch.zeros(3, 2, 3, 24))
        path.write_bytes(list_entries(other.folder)[0].path.read_bytes())


@pytest.mark.parametrize("how", ["truncated", "empty", "one bit", "garbage", "other type", "other entry"])
def test_damaged_entries_are_computed_again(cache, generator, how, caplog):
    frames = clip(3)
    [expected] = cache.features(generator, [frames])
    [entry] = list_entries(cache.folder)
    damage(entry.path, how)
    assert cache.get(frames, feature_identity(generator)) is None
    [again] = cache.features(generator, [frames])
    assert torch.equal(again, expected) and "damaged" in caplog.text
    assert torch.equal(cache.get(frames, feature_identity(generator)), expected)


def test_verify_removes_what_is_bad(cache):
    for number in range(4):
        cache.put(small_clip(number), "identity", small_hidden(number))
    damage(list_entries(cache.folder)[0].path, "one bit")
    assert cache.verify() == {"good": 3, "bad": 1, "left_by_killed_writers": 0}
    assert cache.stats()["entries"] == 3
    assert cache.clear() == 3 and cache.stats()["entries"] == 0


def test_the_longest_unused_go_first(tmp_path):
    size = small_hidden(0).numel() * 2
    cache = FeatureCache(tmp_path, max_bytes=3 * size + 10_000)
    now = time.time()

    for number in range(3):
        cache.put(small_clip(number), "identity", small_hidden(number))
        os.utime(cache._path(*key_of(number)), (now - 100 + number,) * 2)

    assert cache.get(small_clip(0), "identity") is not None  # used: now the youngest

    cache.put(small_clip(3), "identity", small_hidden(3))
    present = [cache.get(small_clip(number), "identity") is not None for number in range(4)]
    assert present == [True, False, True, True]
    assert cache.stats()["bytes"] <= cache.max_bytes


def key_of(number: int) -> tuple[str, str]:
    return clip_hash(small_clip(number)), "identity"


def test_a_clip_larger_than_the_limit_is_refused(tmp_path):
    cache = FeatureCache(tmp_path, max_bytes=1000)
    with pytest.raises(ValueError, match="more than max_bytes=1000 allows"):
        cache.put(small_clip(0), "identity", small_hidden(0))
    with pytest.raises(ValueError, match="max_bytes is 0"):
        FeatureCache(tmp_path, max_bytes=0)


def test_folders_of_another_kind_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files and no feature cache"):
        FeatureCache(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be made"):
        FeatureCache(tmp_path / "notes.txt" / "cache")


def test_another_version_is_refused(cache):
    marker = cache.folder / "vega3d_features.json"
    marker.write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="has format 99, but this version"):
        FeatureCache(cache.folder)


UNWRITABLE = """
import os, sys, torch
from vega3d.features.cache import FeatureCache
if os.geteuid() == 0:
    os.setuid(65534)
cache = FeatureCache(sys.argv[1])
clip = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
assert cache.get(clip, "identity") is not None
try:
    cache.put(clip + 1, "identity", torch.zeros(1, 1, 1, 4))
except ValueError as error:
    print(error)
"""


def test_a_read_only_folder_is_read_and_says_so(tmp_path_factory):
    # Below /tmp itself: the folders of pytest are closed to other users.
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        cache = FeatureCache(Path(folder) / "cache")
        cache.put(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "identity", torch.zeros(1, 1, 1, 4))
        for path in [cache.folder, *cache.folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        done = run_forked(UNWRITABLE, str(cache.folder), environment=os.environ)
        assert done.returncode == 0, done.stderr
        assert "takes no more entries" in done.stdout and "Permission denied" in done.stdout
        for path in [cache.folder, *cache.folder.rglob("*")]:
            path.chmod(0o755)


def test_a_full_disk_leaves_nothing_behind(cache):
    cache.put(small_clip(0), "identity", small_hidden(0))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # stands for the full disk
        with pytest.raises(ValueError, match=r"takes no more entries.*Free some space"):
            cache.put(small_clip(1), "identity", small_hidden(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)

    assert [path.suffix for path in cache.folder.rglob("*") if path.is_file() and path.name[0] != "."] == [
        ".json",
        ".safetensors",
    ]


def test_eight_processes_at_once(tmp_path):
    folder = str(tmp_path / "cache")
    workers = [forkserver().Process(target=fill, args=(folder, range(start, start + 20))) for start in range(0, 40, 5)]
    for worker in workers:
        worker.start()

    for worker in workers:
        worker.join()

    assert [worker.exitcode for worker in workers] == [0] * 8

    cache = FeatureCache(folder)
    assert cache.verify() == {"good": 55, "bad": 0, "left_by_killed_writers": 0}
    assert all(torch.equal(cache.get(small_clip(n), "identity"), small_hidden(n)) for n in range(55))


def kill_a_writer(folder: Path, seed: int) -> None:
    """Ends a writing process at a moment of chance, and looks at every entry that it left."""
    began = forkserver().Event()
    writer = forkserver().Process(target=fill_for_ever, args=(str(folder), began))
    writer.start()
    assert began.wait(120)
    time.sleep(random.Random(seed).uniform(0, 0.5))
    writer.kill()
    writer.join()
    cache = FeatureCache(folder)
    entries = list_entries(folder)
    for number in range(40):
        found = cache.get(small_clip(number), "identity")
        assert found is None or torch.equal(found, small_hidden(number))
    assert cache.verify()["bad"] == 0 and cache.stats()["entries"] == len(entries)


def test_killed_writers_leave_no_bad_entry(tmp_path):
    for seed in range(3):
        kill_a_writer(tmp_path, seed)


@pytest.mark.stress
def test_killed_writers_leave_no_bad_entry_many_times(tmp_path):
    for seed in range(20):
        kill_a_writer(tmp_path, seed)


def test_what_killed_writers_left_goes_after_an_hour(cache):
    cache.put(small_clip(0), "identity", small_hidden(0))
    [entry] = list_entries(cache.folder)
    fresh, old = (entry.path.with_name(f"{entry.path.stem}{name}.partial") for name in ("fresh", "old"))
    for path in (fresh, old):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 4000,) * 2)
    assert cache.verify()["left_by_killed_writers"] == 1
    assert fresh.exists() and not old.exists()
