"""What stands before Gradio: requests of other sites, and such as are too large or make no sense, end here.

Gradio answers a request that it cannot read with its own error and a traceback in the log; here it is one line each,
without the server's folders.

A page of another site can have its own name lead to this machine ("DNS rebinding"), and then reads and asks as if it
were the demo. Its requests have that name in their Host header, so a name that is not the server's is refused
(`vega3d.hosts.Hosts`).

Uploads lie in a folder of the server's own, which is locked while the server lives, bounded, and removed when it ends
(`Uploads`). A server that was killed leaves its folder behind; the next one knows by the lock, and removes it.
"""

import atexit
import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import gradio as gr
from filelock import FileLock, Timeout
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vega3d.demo.checks import MAX_MIB
from vega3d.demo.panels import BAD_REQUEST, FAILED, NO_ROOM, OTHER_HOST, OTHER_ORIGIN
from vega3d.files import LOCK
from vega3d.hosts import Hosts

logger = logging.getLogger(__name__)

FORM_BYTES = 2**20  # of a request without a file, and of what comes around the file of an upload
UPLOAD = "/gradio_api/upload"
UNUSED = ("/gradio_api/process_recording", "/gradio_api/deep_link", "/monitoring")  # would write files, or to the log
SHOWN = 200  # characters of a path or a message in the log
PREFIX = "vega3d-demo-"
NEW = "new"  # a file in a folder until its server has locked it
MAX_TOTAL_MIB = 1000
YOUNG_SECONDS = 60  # for which no upload makes room for another
GRADIO_FOLDER = "GRADIO_TEMP_DIR"  # Gradio reads it at every turn


class NoRoomError(Exception):
    """All uploads that are there are young, and together too large for one more."""


class Uploads:
    """The folder of a server's uploads, made in `parent`; together they take at most `max_bytes`."""

    def __init__(self, parent: Path, max_bytes: int = MAX_TOTAL_MIB * 2**20):
        remove_abandoned(parent)
        self.max_bytes = max_bytes
        self._coming = 0  # bytes of the uploads that are on their way
        self._spared: set[Path] = set()
        self.folder, self._lock = self._locked(parent)
        atexit.register(self.close)

    @staticmethod
    def _locked(parent: Path) -> tuple[Path, FileLock]:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            (folder / NEW).touch()
            (folder / LOCK).touch()
            lock = FileLock(folder / LOCK, timeout=0)
            with contextlib.suppress(Timeout, FileNotFoundError):
                lock.acquire()
                (folder / NEW).unlink()  # not there in a folder that the lock itself has made again
                return folder, lock
            # Another server that was just starting took it for abandoned.

    def close(self) -> None:
        """Removes the folder with all uploads."""
        atexit.unregister(self.close)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def spare_what_is_there(self) -> None:
        """The pictures and clips of the page itself make no room for uploads."""
        self._spared = set(self._files())

    def _files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file() and path.name != LOCK]

    @contextlib.contextmanager
    def room_for(self, size: int) -> Iterator[None]:
        """Holds room for an upload [bytes] while it comes; the oldest go, or NoRoomError is raised."""
        found = sorted((stat.st_mtime, stat.st_size, path) for path, stat in self._stats() if path not in self._spared)
        total = self._coming + sum(file_size for _, file_size, _ in found)
        latest = time.time() - YOUNG_SECONDS
        old = [(file_size, path) for modified, file_size, path in found if modified < latest]
        if total + size - sum(file_size for file_size, _ in old) > self.max_bytes:
            raise NoRoomError
        for file_size, path in old:
            if total + size <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= file_size
        self._coming += size
        try:
            yield
        finally:
            self._coming -= size

    def _stats(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self._files():
            with contextlib.suppress(FileNotFoundError):  # removed by Gradio's own sweep
                yield path, path.stat()


def remove_abandoned(parent: Path) -> None:
    """Removes the folders of servers that do not live, of the same user."""
    for folder in parent.glob(f"{PREFIX}*"):
        lock = folder / LOCK
        with contextlib.suppress(Timeout, OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid() or not lock.is_file():
                continue
            with FileLock(lock, timeout=0):
                shutil.rmtree(folder)


@cache
def own_uploads() -> Uploads:
    """The uploads of this process, in the place that Gradio would have taken; the environment names it to Gradio."""
    uploads = Uploads(Path(os.environ.get(GRADIO_FOLDER) or tempfile.gettempdir()))
    os.environ[GRADIO_FOLDER] = str(uploads.folder)
    return uploads


class Guard:
    """Middleware that refuses a request before Gradio reads it, or lets Gradio answer.

    `hosts` are the names under which it may be asked for; any if None.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts | None, uploads: Uploads):
        self.app, self.hosts, self.uploads = app, hosts, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":  # the page has no other connections
                await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self.foreign(headers) or unused(scope) or too_large(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        is_upload = scope["method"] == "POST" and scope["path"].rstrip("/") == UPLOAD
        room = self.uploads.room_for(int(headers.get("content-length", 0))) if is_upload else contextlib.nullcontext()
        try:
            with room:
                await self.answered(scope, receive, send)
        except NoRoomError:
            logger.warning("An upload was refused: there is no room for it.")
            await text_response(503, NO_ROOM)(scope, receive, send)

    def foreign(self, headers: Headers) -> PlainTextResponse | None:
        """The refusal of a request that is meant for another name, or comes from the page of another."""
        if self.hosts is None:
            return None
        names = headers.getlist("host")
        if len(names) != 1 or not self.hosts.allows(names[0]):
            return text_response(403, OTHER_HOST)
        if not all(self.hosts.allows_origin(origin) for origin in headers.getlist("origin")):
            return text_response(403, OTHER_ORIGIN)
        return None

    async def answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets Gradio answer; what it cannot is answered and logged in a line."""
        has_begun = False

        async def sent(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, sent)
        except Exception as error:
            message = f"{type(error).__name__}: {error}".encode("ascii", "backslashreplace").decode()
            logger.warning("%s %.200r failed. %r", scope["method"], scope["path"], message[:SHOWN])
            if has_begun:
                await send({"type": "http.response.body", "body": b""})
                return
            is_ours = isinstance(error, OSError)
            await text_response(500 if is_ours else 400, FAILED if is_ours else BAD_REQUEST)(scope, receive, send)


def unused(scope: Scope) -> PlainTextResponse | None:
    return text_response(404, "There is nothing here.") if scope["path"].startswith(UNUSED) else None


def too_large(scope: Scope, headers: Headers) -> PlainTextResponse | None:
    """The refusal of a request that does not say its size, or is too large; the server counts what comes."""
    if scope["method"] not in ("POST", "PUT", "PATCH"):
        return None
    length = headers.get("content-length")
    if length is None:
        return text_response(411, "The request does not tell its size. Send a Content-Length.")
    size, is_upload = int(length), scope["path"].rstrip("/") == UPLOAD
    if size <= (MAX_MIB * 2**20 if is_upload else 0) + FORM_BYTES:
        return None
    mib = f"{size / 2**20:.1f} MiB"
    if is_upload:
        return text_response(413, f"The upload has {mib}, but at most {MAX_MIB} MiB are taken. Shorten it.")
    return text_response(413, f"The request has {mib}, but at most {FORM_BYTES / 2**20:.0f} MiB is taken.")


def text_response(status: int, text: str) -> PlainTextResponse:
    return PlainTextResponse(text, status, {"X-Content-Type-Options": "nosniff"})


class GuardedBlocks(gr.Blocks):
    """A page whose errors, of values that do not fit, are worded for its visitors and not by Gradio."""

    async def preprocess_data(self, block_fn, inputs, state, explicit_call=False):
        try:
            check_values(block_fn.inputs, inputs)
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except Exception as error:
            logger.info("Values did not fit: %s", type(error).__name__)
            raise gr.Error(BAD_REQUEST, print_exception=False) from None

    async def process_api(self, *args, **options):
        try:
            return await super().process_api(*args, **options)
        except gr.Error:
            raise
        except Exception as error:
            logger.exception("A request failed.")
            raise gr.Error(FAILED, print_exception=False) from error


def check_values(components: Sequence, values: Sequence) -> None:
    """Raises ValueError for values that Gradio would drop, turn into text, or fetch from elsewhere."""
    if len(values) != len(components):
        raise ValueError(f"{len(values)} values, but {len(components)} are wanted.")
    for component, value in zip(components, values, strict=True):
        if isinstance(component, gr.Textbox) and not isinstance(value, str):
            raise ValueError("A text box holds text.")
        if is_address(value):
            raise ValueError("A file is at an address.")


def is_address(value: object) -> bool:
    """Whether a value is a file that the server would have to fetch from elsewhere."""
    if not isinstance(value, dict):
        return False
    path = value.get("path")
    return (isinstance(path, str) and "://" in path) or any(map(is_address, value.values()))
