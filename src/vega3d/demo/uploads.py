"""The folder of a server's uploads: its own, locked while it lives, bounded, and removed when it ends.

A server that was killed leaves its folder behind; the next one knows by the lock, and removes it.
"""

import atexit
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from vega3d.files import LOCK

PREFIX = "vega3d-demo-"
MAX_TOTAL_MIB = 1000
YOUNG_SECONDS = 60  # for which no upload makes room for another
GRADIO_FOLDER = "GRADIO_TEMP_DIR"  # Gradio reads it at every turn


class NoRoomError(Exception):
    """All uploads that are kept are young, and together too large for one more."""


class Uploads:
    """
    Args:
        parent: folder in which the server's own is made.
        max_bytes: of all uploads together.
    """

    def __init__(self, parent: Path, max_bytes: int = MAX_TOTAL_MIB * 2**20):
        remove_abandoned(parent)
        self.max_bytes = max_bytes
        self._coming = 0  # bytes of the uploads that are on their way
        self._kept: set[Path] = set()
        self.folder, self._lock = self._locked(parent)
        atexit.register(self.close)

    @staticmethod
    def _locked(parent: Path) -> tuple[Path, FileLock]:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            (folder / LOCK).write_text(folder.name)
            lock = FileLock(folder / LOCK, timeout=0)
            with contextlib.suppress(Timeout, FileNotFoundError):
                lock.acquire()
                if (folder / LOCK).read_text():  # an empty one was made by the lock itself
                    return folder, lock
            # Another server that was just starting took it for abandoned.

    def close(self) -> None:
        """Removes all of it."""
        atexit.unregister(self.close)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def keep_what_is_there(self) -> None:
        """The pictures and clips of the page itself make no room for uploads."""
        self._kept = set(self._files())

    def _files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file() and path.name != LOCK]

    @contextlib.contextmanager
    def room_for(self, size: int) -> Iterator[None]:
        """Holds room for an upload [bytes] while it comes; the oldest go.

        Raises:
            NoRoomError: if those that may go are not enough.
        """
        found = sorted((stat.st_mtime, stat.st_size, path) for path, stat in self._stats() if path not in self._kept)
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
    """Those of this process; Gradio is told its folder, in the place that it would have taken."""
    uploads = Uploads(Path(os.environ.get(GRADIO_FOLDER) or tempfile.gettempdir()))
    os.environ[GRADIO_FOLDER] = str(uploads.folder)
    return uploads
