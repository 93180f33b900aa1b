import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published import chat, picture, spar_rows, vlm3r_rows, write_shard
from training_data import losses_of, run_config, run_training, write_clip

from tiny_checkpoints import FROZEN
from vega3d.hub.load import load_processor
from vega3d.training import DataSource, VegaCollator, load_examples, stream_examples
from vega3d.training.shards import sample_example, scan_shard, shards_fingerprint


def row(number: int, **values) -> dict:
    return {"conversations": chat("<image>\nWhich?", f"{number} things"), **values}


def shards(folder: Path, count: int = 3, rows: int = 4) -> list[Path]:
    """Shards of pictures with questions, each answer another number."""
    folder.mkdir(exist_ok=True)
    return [
        write_shard(
            folder / f"train-{shard:04}.tar",
            {
                name: content
                for number in range(shard * rows, (shard + 1) * rows)
                for name, content in (
                    (f"{number:06}.png", picture(number, (64, 64))),
                    (f"{number:06}.json", row(number)),
                )
            },
        )
        for shard in range(count)
    ]


def answers(examples) -> list[int]:
    return [int(one.messages[1]["content"][0]["text"].split()[0]) for one in examples]


@pytest.fixture(scope="module")
def collator() -> VegaCollator:
    return VegaCollator(load_processor(FROZEN), num_frames=2)


@pytest.fixture(scope="module")
def pattern(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    shards(folder)
    return str(folder / "train-*.tar")


def test_rows_of_shards_are_read_in_order_with_their_media(pattern, collator):
    examples = load_examples([DataSource(pattern, format="llava")]).examples

    assert answers(examples) == list(range(12))
    assert examples[5].id == "train-0001.tar/000005"
    pixels = collator(examples[5:6])["pixel_values"]
    direct = {"messages": examples[5].messages, "images": [picture(5, (64, 64))]}
    assert torch.equal(pixels, collator([direct])["pixel_values"])


def test_the_order_of_a_stream_is_a_function_of_seed_and_epoch(pattern):
    def order(seed: int, epoch: int) -> list[int]:
        stream = stream_examples([DataSource(pattern, format="llava")], seed, 1000)
        stream.set_epoch(epoch)
        return answers(stream)

    first = order(0, 0)
    assert first == order(0, 0) and sorted(first) == list(range(12))
    assert first != list(range(12)) and first != order(1, 0) and first != order(0, 1)
    assert answers(stream_examples([DataSource(pattern, format="llava")], 0, 1)) == list(range(12))


def test_workers_share_out_the_shards(pattern):
    stream = stream_examples([DataSource(pattern, format="llava")], 3, 1000)
    by_worker: dict[int, set] = {}
    loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=2, collate_fn=lambda one: one)

    seen = []
    for example in loader:
        seen.append(example)
        worker = stream.order(3).index(int(example.id[6:10])) % 2
        by_worker.setdefault(worker, set()).add(example.id[:10])

    assert sorted(answers(seen)) == list(range(12))
    assert {worker: len(names) for worker, names in by_worker.items()} == {0: 2, 1: 1}
    assert answers(seen) == answers(loader)


def test_a_stream_holds_no_media(pattern, monkeypatch):
    monkeypatch.setattr("vega3d.training.shards.ShardFile.read", counted := Counted())
    assert len(list(stream_examples([DataSource(pattern, format="llava")], 0, 1000))) == 12
    assert counted.names and all(name.endswith(".json") for name in counted.names)


class Counted:
    """Reads a file of a shard, and notes its name."""

    def __init__(self):
        from vega3d.training.shards import ShardFile

        self.names, self.plain = [], ShardFile.read

    def __get__(self, file, kind):
        def read():
            self.names.append(file.name)
            return self.plain(file)

        return read


def test_videos_frames_and_marks_of_a_shard(collator, tmp_path):
    film = write_clip(tmp_path / "film.mp4", 0).read_bytes()
    (talk,) = vlm3r_rows()
    names = ["red.png", "2.png", "3.png"]
    path = write_shard(
        tmp_path / "a.tar",
        {
            "./talk.json": {**talk, "video": "mp4"},
            "./talk.mp4": film,
            "deep/frames.json": {
                "messages": [{"role": "user", "content": "<video>Where?"}, SAY],
                "videos": [["1.png", "0.png"]],
            },
            "deep/frames.0.png": picture(1, (64, 64)),
            "deep/frames.1.png": picture(2, (64, 64)),
            **{f"spar.{name}": picture(number) for number, name in enumerate(names)},
            "spar.json": {**spar_rows()[0], "images": [f"spar.{name}" for name in names]},
        },
    )
    examples = load_examples([DataSource(str(path))]).examples

    assert [one.id for one in examples] == ["a.tar/talk", "a.tar/deep/frames", "a.tar/spar"]
    batch = collator(examples)
    (tmp_path / "scannet" / "videos").mkdir(parents=True)
    direct = [
        {**talk, "video": str(tmp_path / "film.mp4")},
        {"messages": examples[1].messages, "videos": [[picture(2, (64, 64)), picture(1, (64, 64))]]},
        {**spar_rows()[0], "images": [picture(0), picture(1), picture(2)]},
    ]
    for name, values in collator(direct).items():
        assert torch.equal(values, batch[name]), name


SAY = {"role": "assistant", "content": "here"}
GOOD = {"0.png": picture(0, (64, 64)), "0.json": row(0), "1.json": row(1), "1.png": picture(1, (64, 64))}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({**GOOD, "1.png#": picture(2)}, "has two files 1.png. Keep one of them."),
        ({**GOOD, "0.txt": "late"}, "has the files of 0 in two places. Sort them by name."),
        ({"README": "text", **GOOD}, "holds README, which is no file with a key and an ending"),
        ({**GOOD, ".hidden.png": b"1"}, "holds .hidden.png, which is no file with a key and an ending"),
        ({"0.png": GOOD["0.png"]}, "has no 0.json, the row of png. Add it."),
        ({**GOOD, "2.json": "{"}, "2.json is no JSON"),
        ({**GOOD, "2.json": "[1]"}, "2.json is a list, which is no object"),
        ({**GOOD, "2.json": row(2)}, "a.tar/2 cannot be trained on: its text holds <image> 1 time(s), but it has 0"),
        (
            {**GOOD, "2.json": row(2, image="3.png")},
            "a.tar/2 cannot be trained on: it names 3.png, but its sample has []",
        ),
        ({**GOOD, "2.json": row(2, image="0.png")}, "it names 0.png, but its sample has []"),
        ({**GOOD, "1.npy": b"1"}, "a.tar/1 cannot be trained on: npy of its sample are in no place of it"),
        ({**GOOD, "2.json": {"id": "x", "text": "y"}}, "Row a.tar/2 cannot be trained on: it has no `conversations`"),
        ({}, "is a tar without files"),
    ],
)
def test_a_shard_of_another_shape_is_refused(files, words, tmp_path):
    path = write_shard(tmp_path / "a.tar", files)
    for read in (load_examples, lambda sources: list(stream_examples(sources, 0, 1000))):
        with pytest.raises(ValueError) as refused:
            read([DataSource(str(path), format="llava")])
        assert words in str(refused.value)
        assert "a.tar" in str(refused.value)


@pytest.mark.parametrize("cut", [0, 100, 512, 700, 1024, 2000, -513, -512, -1])
def test_a_shard_that_is_cut_off_is_refused(cut, tmp_path):
    """Negative ones count from the block of zeros that ends it."""
    path = write_shard(tmp_path / "a.tar", GOOD)
    last = scan_shard(path)[-1].files["png"]
    end = last.offset + -(-last.size // 512) * 512 + 512
    path.write_bytes(path.read_bytes()[: cut if cut >= 0 else end + cut])

    with pytest.raises(ValueError, match=r"a\.tar (is cut off or damaged after \d+ bytes|cannot be read as a tar)"):
        scan_shard(path)


def test_other_files_than_tars_are_refused(tmp_path):
    good = write_shard(tmp_path / "a.tar", GOOD)
    (tmp_path / "text.tar").write_text("no tar at all")
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as packed:
        packed.add(good, "a.json")
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        entry = tarfile.TarInfo("a.json")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(entry)

    for name in ("text", "packed"):
        with pytest.raises(ValueError, match=rf"{name}\.tar cannot be read as a tar"):
            scan_shard(tmp_path / f"{name}.tar")
    with pytest.raises(ValueError, match=r"holds a\.json, which is no file with a key"):
        scan_shard(tmp_path / "link.tar")


def test_a_file_of_a_shard_that_cannot_be_read_is_named(collator, tmp_path):
    path = write_shard(tmp_path / "a.tar", {"0.json": row(0), "0.png": b"nonsense"})
    example = sample_example(scan_shard(path)[0], "llava")

    with pytest.raises(ValueError, match=rf"Row a\.tar/0 has a video or image .*: {path}/0\.png cannot"):
        collator([example])
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(ValueError, match=rf"{path}/0\.png is cut off"):
        collator([example])


def test_shards_take_no_media_root(pattern, tmp_path):
    with pytest.raises(ValueError, match=r"but the media of .* are in its shards"):
        load_examples([DataSource(pattern, format="llava", media_root=tmp_path)])


def test_shards_are_known_by_names_and_sizes(tmp_path):
    first = shards_fingerprint(shards(tmp_path / "a"))
    assert first == shards_fingerprint(shards(tmp_path / "b"))
    assert first != shards_fingerprint(shards(tmp_path / "c", rows=5))


class StoppedError(Exception):
    pass


def test_a_streamed_run_that_was_stopped_continues_with_the_same_losses(tmp_path):
    """Four steps of two rows, over twice the four rows of two shards."""
    paths = shards(tmp_path / "data", count=2, rows=2)
    data = (DataSource(str(tmp_path / "data" / "*.tar"), format="llava"),)
    options = {"streaming": True, "tune": "gate", "learning_rates": {}, "gradient_accumulation": 1, "steps": 4}
    whole, cut = (replace(run_config(tmp_path, tmp_path / name, **options), data=data) for name in ("whole", "cut"))
    expected = run_training(whole)

    def stop(done: int, steps: int) -> None:
        seen.append(done)
        if sum(seen) == 3:
            raise StoppedError

    seen: list[int] = []
    with pytest.raises(StoppedError):
        run_training(cut, stop)
    continued = run_training(cut)

    assert continued["continued_from"] == "checkpoint-2"
    assert losses_of(continued["log"]) == losses_of(expected["log"])
    paths[0].write_bytes(paths[0].read_bytes() + bytes(512))
    with pytest.raises(ValueError, match="shards_sha256"):
        run_training(cut)
