"""What stands before the page: names of the server, sizes, requests that make no sense, and the folder of uploads."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import gradio as gr
import httpx
import pytest
from filelock import FileLock

from vega3d.demo.app import build, launch
from vega3d.demo.compare import Comparer
from vega3d.demo.guard import LOCK, PREFIX, YOUNG_SECONDS, NoRoomError, Uploads
from vega3d.hosts import check_name, served_hosts
from vega3d.hub.load import load
from vega3d.shipped import example_clip

FILE = {"_type": "gradio.FileData"}


@pytest.mark.parametrize(
    "host", ["localhost:7860", "LOCALHOST", "localhost.", "127.0.0.1:7860", "127.0.0.2", "[::1]:7860", "[::1]"]
)
def test_this_machine_is_asked_for_by_its_own_names(host):
    assert served_hosts("127.0.0.1").allows(host)


FOREIGN = ["evil.example:7860", "localhost.evil.example", "127.0.0.1.evil.example", "evil-localhost", "", ":7860",
           "10.0.0.5:7860", "0.0.0.0:7860", "localhost@evil.example", "evil.example/localhost", "localhost:port",
           "[::1", "loc\talhost", "127.0.0.1, evil.example"]  # fmt: skip


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("bound", ["127.0.0.1", "localhost", "::1"])
def test_another_name_is_refused(host, bound):
    assert not served_hosts(bound).allows(host)


def test_a_server_for_other_machines_takes_addresses_and_its_names(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Workstation")

    hosts = served_hosts("0.0.0.0", ["Demo.example.org"])

    for host in ("10.0.0.5:7860", "[fe80::1]:7860", "workstation:7860", "workstation.local", "demo.example.org"):
        assert hosts.allows(host)
    assert not hosts.allows("evil.example") and not hosts.allows("x.demo.example.org")
    assert not served_hosts("127.0.0.1").allows("workstation")


@pytest.mark.parametrize(
    "origin", ["null", "http://evil.example", "file://localhost", "localhost", "https://", "http://"]
)
def test_the_page_of_another_site_is_refused(origin):
    hosts = served_hosts("127.0.0.1", ["demo.example.org"])

    assert not hosts.allows_origin(origin)
    assert hosts.allows_origin("http://localhost:7860") and hosts.allows_origin("https://demo.example.org")


@pytest.mark.parametrize("name", ["http://demo.example.org", "demo.example.org:80", "", " ", "a b", "a/b", "*@x"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match="a name alone"):
        check_name(name)


def put(uploads: Uploads, name: str, size: int, age: float = 0) -> Path:
    file = uploads.folder / name
    file.write_bytes(bytes(size))
    os.utime(file, (time.time() - age,) * 2)
    return file


@pytest.fixture
def uploads(tmp_path):
    uploads = Uploads(tmp_path, max_bytes=100)
    yield uploads
    uploads.close()


def test_the_oldest_uploads_make_room(uploads):
    oldest, old = put(uploads, "oldest", 40, 3000), put(uploads, "old", 40, 2000)

    with uploads.room_for(50):
        assert not oldest.exists() and old.exists()


def test_young_uploads_and_what_is_on_its_way_are_left(uploads):
    young = put(uploads, "young", 40, YOUNG_SECONDS / 2)

    with uploads.room_for(40), pytest.raises(NoRoomError), uploads.room_for(40):
        raise AssertionError("there was room")

    assert young.exists()
    with uploads.room_for(60):
        pass


def test_what_the_page_shows_is_left(uploads):
    clip = put(uploads, "clip", 90, 3000)
    uploads.spare_what_is_there()

    with uploads.room_for(90):
        assert clip.exists()


def killed_server(parent: Path) -> None:
    """A server that takes an upload and is killed, in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            put(Uploads(parent), "film.mp4", 4)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_the_uploads_of_a_killed_server_are_removed_by_the_next(tmp_path, uploads):
    killed_server(tmp_path)
    (left,) = set(tmp_path.glob(f"{PREFIX}*/film.mp4"))

    nextone = Uploads(tmp_path)

    assert not left.parent.exists()
    assert uploads.folder.is_dir()  # its server lives
    nextone.close()
    assert {path.name for path in tmp_path.iterdir()} == {uploads.folder.name}


def test_folders_that_are_no_servers_are_left(tmp_path):
    other, elsewhere = tmp_path / f"{PREFIX}mine", tmp_path / "elsewhere"
    for folder in (other, elsewhere):
        folder.mkdir()
    (elsewhere / LOCK).touch()
    (tmp_path / f"{PREFIX}link").symlink_to(elsewhere)

    Uploads(tmp_path).close()

    assert other.is_dir() and (elsewhere / LOCK).is_file()


def test_a_folder_taken_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    acquire, taken = FileLock.acquire, []

    def late(self, *args, **options):
        if not taken:  # another server was faster
            taken.append(Path(self.lock_file).parent)
            shutil.rmtree(taken[0])
        return acquire(self, *args, **options)

    monkeypatch.setattr(FileLock, "acquire", late)
    uploads = Uploads(tmp_path)

    assert uploads.folder != taken[0] and (uploads.folder / LOCK).is_file()
    uploads.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    import matplotlib.style  # noqa: F401 (old ones warn when they are imported, which is no line of the server's log)

    page = build(Comparer(load(device="cpu", num_frames=2)))
    address = launch(page, "127.0.0.1", None, block=False)
    with httpx.Client(base_url=address, timeout=60, headers={"connection": "close"}) as client:
        yield client
    page.close()


@pytest.fixture(scope="module")
def video(server):
    """Of an upload, as a page sends it."""
    files = {"files": ("room.mp4", example_clip("room").read_bytes())}
    return {"path": server.post("/gradio_api/upload", files=files).json()[0], "meta": FILE}


def call(server: httpx.Client, values: object, name: str = "answer") -> str:
    """What the server says to a program that calls an endpoint."""
    body = json.dumps({"data": values}, ensure_ascii=True)
    begun = server.post(f"/gradio_api/call/{name}", content=body, headers={"content-type": "application/json"})
    if "event_id" not in begun.text:
        return begun.text
    return server.get(f"/gradio_api/call/{name}/{begun.json()['event_id']}").text


BAD_CALLS = {
    "a file of the server": lambda video: [{"path": os.path.abspath("a.toml"), "meta": FILE}, "Q", "free text", ""],
    "a folder of the server": lambda video: [{"path": "/tmp", "meta": FILE}, "Q", "free text", ""],
    "a path alone": lambda video: ["/etc/passwd", "Q", "free text", ""],
    "a file within": lambda video: [{"video": {"path": "/etc/passwd", "meta": FILE}}, "Q", "free text", ""],
    "an address": lambda video: [{"path": "http://192.0.2.1/film.mp4", "meta": FILE}, "Q", "free text", ""],
    "a null in a path": lambda video: [{"path": "a\0b", "meta": FILE}, "Q", "free text", ""],
    "half a character in a path": lambda video: [{"path": "\ud800", "meta": FILE}, "Q", "free text", ""],
    "too few values": lambda video: [video],
    "no values": lambda video: [],
    "too many values": lambda video: [video, "Q", "free text", "", "more"],
    "a null question": lambda video: [video, None, "free text", ""],
    "a number as question": lambda video: [video, 5, "free text", ""],
    "a list as question": lambda video: [video, ["Q"], "free text", ""],
    "half a character": lambda video: [video, "\ud800", "free text", ""],
    "half a character in an option": lambda video: [video, "Q", "a choice", "\udfff\nb"],
    "a null character": lambda video: [video, "a\0b", "free text", ""],
    "a null kind": lambda video: [video, "Q", None, ""],
    "a list as kind": lambda video: [video, "Q", ["free text"], ""],
    "null options": lambda video: [video, "Q", "free text", None],
    "a number as video": lambda video: [5, "Q", "free text", ""],
    "a list as video": lambda video: [[1, 2], "Q", "free text", ""],
    "huge text": lambda video: [video, "x" * 900_000, "free text", ""],
    "a huge request": lambda video: [video, "x" * 2_000_000, "free text", ""],
}  # fmt: skip


def assert_tells_nothing(text: str) -> None:
    """No folder of the server, and nothing of Python's."""
    for secret in (os.getcwd(), str(Path.home()), sys.prefix, "/tmp", "/etc", "Traceback", "object at 0x", "<class"):
        assert secret not in text
    assert len(text) < 500


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_bad_call_is_told_and_logged_in_a_line(server, video, case, caplog, capfd):
    said = call(server, BAD_CALLS[case](video))

    assert_tells_nothing(said)
    assert any(word in said for word in ("does not fit", "The text holds", "characters", "MiB", "must be text"))
    log = caplog.text + "".join(capfd.readouterr())
    assert "Traceback" not in log and len(log.splitlines()) <= 1


BAD_REQUESTS = {
    "an unknown endpoint": ("/gradio_api/call/nothing", {"data": []}),
    "an unknown endpoint, by name": ("/gradio_api/run/nothing", {"data": []}),
    "an unknown endpoint, v2": ("/gradio_api/call/v2/nothing", {}),
    "an unknown argument": ("/gradio_api/call/v2/answer", {"x": 1}),
    "an unknown number": ("/gradio_api/run/predict", {"data": [], "fn_index": 9999}),
    "a number below zero": ("/gradio_api/queue/join", {"data": [], "fn_index": -1, "session_hash": "x"}),
    "an unknown component": ("/gradio_api/component_server",
                             {"session_hash": "a", "component_id": 99999, "fn_name": "x", "data": None}),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_request_for_what_is_not_there_is_told_and_logged_in_a_line(server, case, caplog, capfd):
    path, body = BAD_REQUESTS[case]

    answer = server.post(path, json=body)

    assert answer.status_code == 400
    assert_tells_nothing(answer.text)
    log = caplog.text + "".join(capfd.readouterr())
    assert "Traceback" not in log and len(log.splitlines()) <= 1


@pytest.mark.parametrize("path", ["/gradio_api/call/answer/unknown", "/gradio_api/queue/data?session_hash=unknown"])
def test_an_unknown_event_ends(server, path, caplog):
    assert_tells_nothing(server.get(path).text)

    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example:7860"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "localhost:7860", "origin": "http://localhost:7860"}, 200),
        ({}, 200),
    ],
)
def test_requests_of_other_sites_are_refused(server, headers, status):
    for path in ("/config", "/gradio_api/info"):
        assert server.get(path, headers=headers).status_code == status
    answer = server.post("/gradio_api/upload", files={"files": ("a.mp4", b"film")}, headers=headers)

    assert answer.status_code == status


def test_an_upload_that_is_too_large_or_of_no_size_is_refused(server, monkeypatch):
    monkeypatch.setattr("vega3d.demo.guard.MAX_MIB", 1)
    large = server.post("/gradio_api/upload", files={"files": ("a.mp4", bytes(5 * 2**19))})
    endless = server.post("/gradio_api/upload", content=iter([b"film"]))

    assert (large.status_code, endless.status_code) == (413, 411)
    assert "2.5 MiB, but at most 1 MiB" in large.text


def test_an_upload_for_which_there_is_no_room_is_refused(server, monkeypatch):
    from vega3d.demo.guard import own_uploads

    monkeypatch.setattr(own_uploads(), "max_bytes", 10)
    answer = server.post("/gradio_api/upload", files={"files": ("a.mp4", b"film")})

    assert answer.status_code == 503 and "as many uploads as it takes" in answer.text


@pytest.mark.parametrize("path", ["/gradio_api/process_recording", "/gradio_api/deep_link", "/monitoring"])
def test_ways_of_gradio_that_the_page_does_not_use_are_closed(server, path):
    assert server.get(path).status_code == 404


def test_a_shared_page_answers_to_any_name(monkeypatch):
    from vega3d.demo.guard import Guard

    given = {}
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, **options: given.update(options) or (None, "", ""))
    with gr.Blocks() as page:
        pass

    launch(page, "127.0.0.1", 7860, share=True, block=False)

    (guard,) = given["app_kwargs"]["middleware"]
    assert guard.cls is Guard and guard.kwargs["hosts"] is None
