"""Files that are either absent, old or complete, whatever happens while they are written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fractalkern.errors import InputError


def write_atomically(path: Path, data: bytes) -> None:
    """Writes beside `path`, syncs, renames onto it and syncs the folder.

    The temporary name is fixed: what a killed process left there is overwritten by the next one.
    Only the holder of the folder's lock may write.
    """
    beside = path.with_name(f".{path.name}.tmp")
    with writing(path):
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable: a rename alone may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a failed write into one sentence that names the path and the reason."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"out must be a place to write to, but {path}: {reason}") from error
