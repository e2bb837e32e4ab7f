"""What a job has done so far, in one SQLite file: it survives a power cut, and the next run goes on from it.

`manifest.sqlite` lies beside `results.jsonl`. It is the record; `results.jsonl` is written from it. A photo is entered
in one transaction, after its files are complete on the disk, so a photo is either done, with its files, or not done.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.sqlite"
_VERSION = 1
_SCHEMA = """
CREATE TABLE photos (
    input PRIMARY KEY,  -- TEXT, or BLOB for a name that is not UTF-8
    name,               -- of its face files
    target,             -- the restored file
    settings TEXT,      -- checksum of everything that decides how a photo is restored
    content TEXT,       -- SHA-256 of the input
    source_size INTEGER, source_mtime INTEGER,
    target_content TEXT,
    target_size INTEGER, target_mtime INTEGER,
    same_as,            -- input with the same content, whose result this is a copy of
    status TEXT,        -- ok, no_face, failed, or NULL: begun and not finished
    attempts INTEGER NOT NULL DEFAULT 0,
    line TEXT           -- of results.jsonl
) WITHOUT ROWID
"""


class ManifestError(ValueError):
    """The manifest cannot be opened or written: in use, damaged, or no space left. One line."""


@dataclass(frozen=True)
class Done:
    """A photo that is finished."""

    line: dict
    """Of `results.jsonl`."""
    name: str
    settings: str
    content: str
    source: tuple[int, int] | None
    """Size and time of the input, as `stamp` gives them."""
    target: tuple[int, int] | None
    target_content: str
    same_as: str | None = None


class Manifest:
    """The open manifest of an output folder. One process at a time; the lock goes with the process."""

    def __init__(self, folder: Path, *, anew: bool = False):
        """Opens the manifest of `folder`, or makes one.

        Args:
            folder: of the results.
            anew: forget what an earlier run has done.

        Raises:
            ManifestError: another process works in this folder, or the file is no manifest.
        """
        self.path = folder / MANIFEST
        if not anew:
            self._open()
            return
        try:
            self._open()
        except _DamagedError:
            _remove(self.path)
            self._open()
        with self._guarded():
            self._database.execute("DELETE FROM photos")

    def _open(self) -> None:
        try:
            self._database = sqlite3.connect(self.path, timeout=1.0, isolation_level=None, check_same_thread=False)
            with self._guarded():
                # Exclusive: two runs in one folder would undo each other's files.
                self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
                # An entry does not wait for the disk: a killed program loses none, and after a power cut the last few
                # photos are done again. Their own files have been waited for.
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = NORMAL")
                self._database.execute("BEGIN EXCLUSIVE")
                version = self._database.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:
                    self._database.execute(_SCHEMA)
                    self._database.execute(f"PRAGMA user_version = {_VERSION}")
                elif version != _VERSION:
                    raise ManifestError(f"{self.path}: written by another version of this program; use another folder")
                self._database.execute("COMMIT")
        except BaseException:
            if hasattr(self, "_database"):
                self._database.close()
            raise

    def _guarded(self) -> _Guard:
        return _Guard(self.path)

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def done(self) -> dict[str, Done]:
        """Everything that ended well, by input."""
        with self._guarded():
            rows = self._database.execute(
                "SELECT input, name, settings, content, source_size, source_mtime, target_size, target_mtime,"
                " target_content, same_as, line FROM photos WHERE status IN ('ok', 'no_face')"
            ).fetchall()
        return {
            _text(row[0]): Done(
                json.loads(row[10]),
                _text(row[1]),
                row[2],
                row[3],
                None if row[4] is None else (row[4], row[5]),
                None if row[6] is None else (row[6], row[7]),
                row[8],
                None if row[9] is None else _text(row[9]),
            )
            for row in rows
        }

    def lines(self) -> dict[str, dict]:
        """The line of every input that has one, by input."""
        with self._guarded():
            rows = self._database.execute("SELECT input, line FROM photos WHERE line IS NOT NULL").fetchall()
        return {_text(name): json.loads(line) for name, line in rows}

    def names(self) -> dict[str, tuple[str, str]]:
        """(name of the face files, restored file) of every known input: a later run keeps them."""
        with self._guarded():
            rows = self._database.execute("SELECT input, name, target FROM photos WHERE line IS NOT NULL").fetchall()
        return {_text(row[0]): (_text(row[1]), _text(row[2])) for row in rows}

    def begun(self) -> dict[str, int]:
        """How often each unfinished input was begun: it was in work when an earlier run died."""
        with self._guarded():
            rows = self._database.execute("SELECT input, attempts FROM photos WHERE status IS NULL").fetchall()
        return {_text(name): attempts for name, attempts in rows}

    def keep_only(self, inputs: Iterable[str]) -> None:
        """Forgets every finished input but these."""
        with self._guarded():
            self._database.execute("BEGIN")
            self._database.execute("CREATE TEMP TABLE kept (input PRIMARY KEY)")
            self._database.executemany("INSERT OR IGNORE INTO kept VALUES (?)", ((_key(name),) for name in inputs))
            self._database.execute("DELETE FROM photos WHERE line IS NOT NULL AND input NOT IN kept")
            self._database.execute("DROP TABLE kept")
            self._database.execute("COMMIT")

    def begin(self, source: str) -> None:
        """Notes that an input is being worked on."""
        with self._guarded():
            self._database.execute(
                "INSERT INTO photos (input, attempts) VALUES (?, 1)"
                " ON CONFLICT (input) DO UPDATE SET attempts = attempts + 1, status = NULL, line = NULL",
                (_key(source),),
            )

    def finish(self, source: str, done: Done, target: str) -> None:
        """Enters an input with its line, in one transaction."""
        with self._guarded():
            self._database.execute(
                "INSERT OR REPLACE INTO photos (input, name, target, settings, content, source_size, source_mtime,"
                " target_content, target_size, target_mtime, same_as, status, attempts, line)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
                (
                    _key(source),
                    _key(done.name),
                    _key(target),
                    done.settings,
                    done.content,
                    *(done.source or (None, None)),
                    done.target_content,
                    *(done.target or (None, None)),
                    None if done.same_as is None else _key(done.same_as),
                    done.line["status"],
                    json.dumps(done.line),
                ),
            )


def recorded_names(folder: Path) -> dict[str, tuple[str, str]]:
    """`Manifest.names` of a folder that may have no manifest yet.

    Raises:
        ManifestError: as `Manifest`.
    """
    if not (folder / MANIFEST).is_file():
        return {}
    with Manifest(folder) as manifest:
        return manifest.names()


def stamp(path: Path) -> tuple[int, int] | None:
    """Size and modification time of a file, None when it is not there: as long as they stay, it is not read again."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def digest(content: bytes) -> str:
    """SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file, None when it cannot be read."""
    checksum = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            for block in _blocks(stream):
                checksum.update(block)
    except OSError:
        return None
    return checksum.hexdigest()


def unchanged(path: Path, known: tuple[int, int] | None, content: str) -> bool:
    """Whether a file is what it was: its size and time are, or else its content is."""
    now = stamp(path)
    return now is not None and (now == known or file_digest(path) == content)


def still_done(
    wanted: Sequence[tuple[Path, str, Path]], known: dict[str, Done], settings: str, faces: Path
) -> dict[str, Done]:
    """Those of the wanted photos that need not be done again, by input.

    Args:
        wanted: (input, name, restored file).
        known: of `Manifest.done`.
        settings: of this run.
        faces: folder of the face files.
    """
    kept = {}
    for source, name, target in wanted:
        done = known.get(str(source))
        if done is None or done.settings != settings or done.name != name or done.line.get("output") != str(target):
            continue
        if not unchanged(source, done.source, done.content) or not unchanged(target, done.target, done.target_content):
            continue
        count = len(done.line["faces"])
        if all((faces / f"{name}_{i}_{kind}.png").is_file() for i in range(count) for kind in ("input", "restored")):
            kept[str(source)] = done
    return kept


def _blocks(stream: object) -> Iterator[bytes]:
    while block := stream.read(1 << 20):  # type: ignore[attr-defined]
        yield block


def _key(text: str) -> str | bytes:
    """A name as SQLite can hold it; on most systems a file may have a name that is no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text)
    return text


def _text(key: str | bytes) -> str:
    return os.fsdecode(key) if isinstance(key, bytes) else key


class _DamagedError(ManifestError):
    """The file is there and is no manifest."""


class _Guard:
    """Turns SQLite's exceptions into one line."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, sqlite3.Error):
            return
        text = str(error)
        if "locked" in text:
            raise ManifestError(f"{self.path.parent}: another run is writing its results here") from None
        if isinstance(error, sqlite3.DatabaseError) and ("not a database" in text or "malformed" in text):
            raise _DamagedError(f"{self.path}: damaged; remove it, or run without --resume, to start anew") from None
        raise ManifestError(f"{self.path}: cannot be written ({text})") from None


def _remove(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-journal"):
        path.with_name(name).unlink(missing_ok=True)
