"""The durable state of a run folder: finished tiles, their checksums, the time they took.

    tiles/<index>.safetensors   a tile's arrays, written beside, synced, renamed
    state.sqlite                settings; a row for each finished tile and for each sitting
    .lock                       held while a process works here

A tile is finished when its row is committed, which happens after its file is durable. So a process
may die anywhere: a file without a row is computed again and overwritten, a row without its exact
file is found by the checksum when the folder is opened next, reported and computed again.

The coordinator is the single writer, and the journal is SQLite's default rollback journal, not the
write-ahead log, whose shared memory does not work on network disks.
"""

import fcntl
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from fractalkern.errors import InputError
from fractalkern.sweeps.files import sync_folder, write_atomically, writing

Arrays = dict[str, NDArray]  # type: ignore[type-arg]  # each array has its own dtype
Settings = Mapping[str, object]

_SCHEMA = """
CREATE TABLE run (kind TEXT NOT NULL, settings TEXT NOT NULL);
CREATE TABLE tiles (number INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, seconds REAL NOT NULL,
                    finished_at REAL NOT NULL);
CREATE TABLE sittings (number INTEGER PRIMARY KEY, started_at REAL NOT NULL, seconds REAL NOT NULL);
"""


_SECONDS_FOR_THE_LOCK = 1.0


class _DamagedError(InputError):
    """A tile's file is not what was recorded."""


class Store:
    """An open run folder; a context manager.

    Args:
        folder: made if absent; must be empty or hold a run of the same kind and settings.
        kind: the experiment's name.
        settings: everything the results depend on, as JSON values.

    `damaged` names the recorded tiles that were found missing or altered and forgotten.

    Raises:
        InputError: the folder is a file, cannot be written, is in use by another process, or holds
            another run; for changed settings the message lists `key: stored -> asked`.
    """

    def __init__(self, folder: Path, kind: str, settings: Settings) -> None:
        self.folder = folder
        self.damaged: list[str] = []
        self._resources = ExitStack()
        try:
            self._open(kind, json.loads(json.dumps(settings)))
        except BaseException:
            self.close()
            raise

    def _open(self, kind: str, settings: dict[str, object]) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"out must be a folder, but {self.folder} is a file")
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            sync_folder(self.folder.parent)
            _refuse_other_files(self.folder)
            self._resources.enter_context(_lock(self.folder))
        with self._readable():
            self._database = sqlite3.connect(self._database_path, isolation_level=None)
            self._resources.callback(self._database.close)
            self._database.execute("PRAGMA synchronous = EXTRA")
            self._identify(kind, settings)
            with writing(self.folder):
                (self.folder / "tiles").mkdir(exist_ok=True)
                sync_folder(self.folder)
            self._forget_damaged()
            self._start_sitting()

    @property
    def _database_path(self) -> Path:
        return self.folder / "state.sqlite"

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise InputError(
                f"out must hold a usable state.sqlite, but {self._database_path}: {error}; "
                "choose another folder"
            ) from error

    def _identify(self, kind: str, settings: dict[str, object]) -> None:
        """Stores what this run is, or checks that it is what the folder already holds."""
        if not self._database.execute("SELECT 1 FROM sqlite_master").fetchone():
            with self._transaction():
                for statement in _SCHEMA.split(";")[:-1]:
                    self._database.execute(statement)
                row = (kind, json.dumps(settings))
                self._database.execute("INSERT INTO run VALUES (?, ?)", row)
        row = self._database.execute("SELECT kind, settings FROM run").fetchone()
        if row is None:
            raise sqlite3.DatabaseError("it does not say which run it is of")
        stored_kind, stored = row
        if stored_kind != kind:
            raise InputError(
                f"out must be a folder of its own, but {self.folder} holds a run of "
                f"{stored_kind}, not of {kind}; choose another folder"
            )
        if changes := differences(json.loads(stored), settings):
            raise InputError(
                f"out must be a folder of its own, but {self.folder} holds a run with other "
                f"settings ({changes}); ask for the same ones or choose another folder"
            )

    def _forget_damaged(self) -> None:
        with self._transaction():
            for number, checksum in self._recorded().items():
                try:
                    self._read(number, checksum)
                except _DamagedError as error:
                    self.damaged.append(str(error))
                    self._database.execute("DELETE FROM tiles WHERE number = ?", (number,))

    def _read(self, number: int, checksum: str) -> bytes:
        name = f"tile {number} ({self.path(number)})"
        try:
            data = self.path(number).read_bytes()
        except FileNotFoundError as error:
            raise _DamagedError(f"{name} is missing") from error
        except OSError as error:
            raise _DamagedError(f"{name} cannot be read: {error.strerror}") from error
        if _digest(data) != checksum:
            raise _DamagedError(f"{name} is corrupt or truncated")
        return data

    def _recorded(self) -> dict[int, str]:
        return dict(self._database.execute("SELECT number, sha256 FROM tiles"))

    def _start_sitting(self) -> None:
        self._started = time.monotonic()
        self._sitting = self._database.execute(
            "INSERT INTO sittings (started_at, seconds) VALUES (?, 0)", (time.time(),)
        ).lastrowid

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def path(self, number: int) -> Path:
        """Where tile `number` is stored."""
        return self.folder / "tiles" / f"{number:05d}.safetensors"

    def finished(self) -> set[int]:
        """The numbers of the tiles that need not be computed."""
        return set(self._recorded())

    def commit(self, number: int, arrays: Arrays, seconds: float) -> None:
        """Makes a tile durable, then records it; `seconds` is what computing it took."""
        # safetensors writes the memory that an array begins, whatever its strides.
        whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        data = safetensors.numpy.save(whole)
        write_atomically(self.path(number), data)
        row = (number, _digest(data), seconds, time.time())
        with self._readable(), self._transaction():
            self._database.execute("INSERT OR REPLACE INTO tiles VALUES (?, ?, ?, ?)", row)
            self._record_time()

    def load(self, number: int) -> Arrays:
        """The arrays of a finished tile, checked once more.

        Raises:
            InputError: its file changed since the folder was opened.
        """
        arrays: Arrays = safetensors.numpy.load(self._read(number, self._recorded()[number]))
        return arrays

    def _record_time(self) -> None:
        elapsed = time.monotonic() - self._started
        statement = "UPDATE sittings SET seconds = ? WHERE number = ?"
        self._database.execute(statement, (elapsed, self._sitting))

    def seconds(self) -> float:
        """Time spent on this folder in all sittings, up to each one's last finished tile or end."""
        with self._readable():
            self._record_time()
        return self._sum("SELECT total(seconds) FROM sittings")

    def compute_seconds(self) -> float:
        """Time spent computing the tiles that are finished."""
        return self._sum("SELECT total(seconds) FROM tiles")

    def _sum(self, query: str) -> float:
        return float(self._database.execute(query).fetchone()[0])

    def close(self) -> None:
        """Releases the folder."""
        self._resources.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _refuse_other_files(folder: Path) -> None:
    """Nothing is made in a folder that holds anything but a run, or a killed one's beginning."""
    beginning = {".lock", "state.sqlite", "state.sqlite-journal"}
    if (folder / "state.sqlite").exists():
        return
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in beginning)
    if others:
        raise InputError(
            f"out must be a new folder, an empty one or a run's, but {folder} holds other files "
            f"({', '.join(others[:3])}{', ...' if len(others) > 3 else ''})"
        )


def _lock(folder: Path) -> TextIO:
    lock = open(folder / ".lock", "a")  # noqa: SIM115  # held until the store is closed
    # A child that a killed process was just starting holds the lock until it runs its own program.
    patience = time.monotonic() + _SECONDS_FOR_THE_LOCK
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError as error:
            if time.monotonic() > patience:
                lock.close()
                raise InputError(
                    "out must be a folder that no other process uses, but one is at work in "
                    f"{folder}; wait for it or choose another folder"
                ) from error
        time.sleep(0.02)


def differences(stored: dict[str, object], asked: dict[str, object]) -> str:
    """`key: stored -> asked` for each key that differs."""
    keys = [*stored, *(key for key in asked if key not in stored)]
    return ", ".join(
        f"{key}: {_show(stored, key)} -> {_show(asked, key)}"
        for key in keys
        if _show(stored, key) != _show(asked, key)
    )


def _show(settings: dict[str, object], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else "absent"
