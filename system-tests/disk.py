"""What a disk holds after the power went, from a record of all writes and syncs.

`recorder.c` writes the record. What was synced is on the disk; anything else may be. Two disks stand for all that
lie between: on one, nothing else arrived, and on the other, all names arrived and no content.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

SOURCE = Path(__file__).with_name("recorder.c")
HEADER = struct.Struct("<cQQII")

# SQLite's index of its write-ahead log is mapped memory, which it makes anew.
MAPPED = "-shm"


class Arrived(Enum):
    """What was on the disk of that which was not synced."""

    NOTHING = "nothing"
    NAMES = "names"


@dataclass(frozen=True)
class Record:
    """A step of a process, or a remark of the test's."""

    what: str
    inode: int
    offset: int
    path: str
    data: bytes


class Recorder:
    """Has the steps of processes recorded that run with its environment."""

    def __init__(self, directory: Path, log: Path, library: Path) -> None:
        self.directory = directory.resolve()
        self.log = log
        command = ["cc", "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl", "-lpthread"]
        subprocess.run(command, check=True)
        self.environment = {
            "LD_PRELOAD": str(library),
            "DISK_ROOT": str(self.directory),
            "DISK_LOG": str(log),
        }

    def remark(self, text: str) -> None:
        """Notes what is known to the outside from here on."""
        path = text.encode()
        with self.log.open("ab", buffering=0) as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            log.write(HEADER.pack(b"K", 0, 0, len(path), 0) + path)

    def records(self) -> Iterator[Record]:
        """All steps, in order."""
        with self.log.open("rb") as log:
            while header := log.read(HEADER.size):
                what, inode, offset, path, data = HEADER.unpack(header)
                yield Record(what.decode(), inode, offset, os.fsdecode(log.read(path)), log.read(data))


@dataclass
class File:
    """A file's content: as processes see it, and as it was synced."""

    synced: bytearray = field(default_factory=bytearray)
    since: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        for offset, data in self.since:
            end = offset + len(data or b"")
            if len(self.synced) < end:
                self.synced.extend(bytes(end - len(self.synced)))
            if data is None:
                del self.synced[offset:]
            else:
                self.synced[offset:end] = data
        self.since.clear()


class Disk:
    """A directory, as processes see it and as it was synced."""

    def __init__(self, root: Path) -> None:
        """Everything that is in the directory now counts as synced."""
        self.root = str(root)
        # By inode, which another file may get once a file is gone: names refer to files.
        self.files: dict[int, File] = {}
        # Of each path, the file that is there, or None for a directory.
        self.names: dict[str, File | None] = {self.root: None}
        for path in root.rglob("*"):
            file = None if path.is_dir() else File(bytearray(path.read_bytes()))
            self.names[str(path)] = file
            if file is not None:
                self.files[path.stat().st_ino] = file
        self.synced_names = dict(self.names)

    def apply(self, record: Record) -> None:
        """Follows a step."""
        path = record.path
        match record.what:
            case "C":
                self.names[path] = self.files[record.inode] = File()
            case "W":
                self.files[record.inode].since.append((record.offset, record.data))
            case "T":
                self.files[record.inode].since.append((record.offset, None))
            case "S":
                self.files[record.inode].sync()
            case "D":
                self.sync_names(path)
            case "M":
                self.names[path] = None
            case "U" | "X":
                del self.names[path]
            case "L":
                self.names[path[record.offset :]] = self.names[path[: record.offset]]
            case "R":
                file = self.names.pop(path[: record.offset])
                assert file is not None, f"a directory was renamed: {path}"
                self.names[path[record.offset :]] = file
            case "K":
                pass
            case other:
                raise AssertionError(f"a record {other!r}")

    def sync_names(self, directory: str) -> None:
        """Makes the entries of a directory durable."""
        mine = lambda path: os.path.dirname(path) == directory  # noqa: E731
        for path in [path for path in self.synced_names if mine(path)]:
            if path not in self.names:
                del self.synced_names[path]
        self.synced_names.update((path, file) for path, file in self.names.items() if mine(path))

    def leave(self, arrived: Arrived, target: Path) -> None:
        """Writes what the power left to an empty directory."""
        names = self.names if arrived == Arrived.NAMES else self.synced_names
        shutil.rmtree(target)
        target.mkdir()
        for path in sorted(names):
            file = names[path]
            place = target / os.path.relpath(path, self.root)
            if path == self.root or path.endswith(MAPPED) or not place.parent.is_dir():
                continue
            if file is None:
                place.mkdir()
            else:
                place.write_bytes(file.synced)
