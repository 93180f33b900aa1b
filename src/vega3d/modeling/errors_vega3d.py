"""Errors of libraries about the files of a model, as the ValueError that callers expect for bad input."""

import contextlib
from collections.abc import Iterator

import torch

COPY_AGAIN = "Copy the checkpoint again, or assemble it anew."


@contextlib.contextmanager
def value_errors(what: str, remedy: str = COPY_AGAIN) -> Iterator[None]:
    """Whatever a library raises about files of the wrong kind is a ValueError that names them.

    OSError stays, as transformers documents it; so does what tells of the machine and not of the files.

    Args:
        what: is loaded in the block.
        remedy: ends the error.
    """
    try:
        yield
    except (ValueError, OSError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{what} cannot be read: {type(error).__name__}: {error}. {remedy}") from error
