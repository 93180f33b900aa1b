"""`ServerSettings`, what a server allows, and `ApiError`, how it refuses."""

from dataclasses import dataclass
from pathlib import Path

from vega3d.configs import check_count

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A refusal as OpenAI's clients read it.

    Args:
        status: HTTP's, from which OpenAI's type of the error follows.
        message: for the user, with the value, the limit and the remedy.
        code: a word that programs may go by.
        param: the field of the request that it is about.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None):
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    @property
    def body(self) -> dict:
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        said = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": {name: sendable(text) for name, text in said.items()}}


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What a server allows.

    Attributes:
        name: of the model, in requests.
        allow_urls: whether visuals are fetched from http and https addresses.
        files_root: folder whose files may be named; None for no files.
        max_body: the most bytes of a request, and of a visual wherever it comes from.
        max_requests: requests that are answered or wait at a time.
        api_key: that clients must send; None if they need none.

    Raises:
        ValueError: if the folder is none, the key is no word of ASCII, or a number is below 1.
    """

    name: str
    allow_urls: bool = False
    files_root: Path | None = None
    max_body: int = 64 * 2**20
    max_requests: int = 16
    api_key: str | None = None

    def __post_init__(self):
        check_count("max_body", self.max_body)
        check_count("max_requests", self.max_requests)
        if self.files_root is not None:
            if not self.files_root.is_dir():
                raise ValueError(f"--files-root {self.files_root} is no folder. Name the folder with the videos.")
            object.__setattr__(self, "files_root", self.files_root.resolve(strict=True))
        key = self.api_key
        if key is not None and (not key or not key.isascii() or not key.isprintable() or " " in key):
            raise ValueError("The API key is empty, or holds spaces or letters beyond ASCII. Choose a word of ASCII.")

    @property
    def sources(self) -> str:
        """Where visuals may come from, in words."""
        urls = "http(s) addresses (public ones alone)" if self.allow_urls else None
        files = "files under --files-root" if self.files_root is not None else None
        return ", ".join(filter(None, ["base64 data", urls, files]))


def sendable(text: str | None) -> str | None:
    """The text, in which half characters, which a request may hold, are written out."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()
