"""Can the embedded broker work with this file, in this directory, on this disk?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from fastq.transports.base import Finding

__all__ = ["file_findings", "file_system"]

#: types as /proc/mounts names them, on which WAL's shared memory does not work
NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs", "ceph", "glusterfs", "fuse.glusterfs", "lustre",
})  # fmt: skip
#: the system forgets these at a restart
VOLATILE = frozenset({"tmpfs", "ramfs"})
#: bytes left on the disk that are few
FREE_BYTES = 64 << 20
#: bytes of a WAL that no checkpoint gets into the file: it is set to 16 MiB, and cut at 64
WAL_BYTES = 256 << 20


def file_findings(path: str) -> Iterator[Finding]:
    """Judge what can be seen without opening the file."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        yield Finding("error", "missing-directory", folder, "there is no such directory", "make it, or correct the broker's URL")
        return
    if os.path.isdir(path):
        yield Finding("error", "foreign-file", path, "this is a directory", "name a file in the broker's URL")
        return
    if not os.path.exists(path):
        text, advice = "this file does not exist yet", "nothing: the first worker or producer makes it"
        yield Finding("note", "missing-file", path, text, advice)
    elif not os.access(path, os.R_OK):
        yield Finding("error", "unreadable-file", path, "this user may not read it", "correct the rights of the file")
    elif not os.access(path, os.W_OK):
        yield Finding("error", "read-only-file", path, "this user may not write it", "correct the rights of the file")
    if not os.access(folder, os.W_OK):
        text = "this user may not write the directory, and SQLite keeps -wal and -shm beside its file"
        yield Finding("error", "read-only-directory", folder, text, "correct the rights of the directory")
    kind = file_system(folder)
    if kind in NETWORK:
        yield Finding(
            "error",
            "network-file-system",
            folder,
            f"this directory is on a network file system ({kind}): processes of several machines would damage the file",
            "use a local disk, or Redis for more than one machine",
        )
    elif kind in VOLATILE:
        yield Finding(
            "warning",
            "volatile-file-system",
            folder,
            f"this directory is kept in memory ({kind}): accepted tasks are lost when the machine restarts",
            "use a directory on a disk",
        )
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        yield Finding(
            "warning",
            "disk-nearly-full",
            folder,
            f"{free >> 20:,} MiB are left on its disk: when it is full, delay() raises OperationalError and workers wait",
            "make room",
        )
    wal = f"{path}-wal"
    if os.path.exists(wal) and os.path.getsize(wal) > WAL_BYTES:
        yield Finding(
            "warning",
            "large-wal",
            wal,
            f"it has {os.path.getsize(wal) >> 20:,} MiB: some process keeps reading, so that it cannot be moved into the file",
            "find out who has the file open (fuser FILE); it shrinks when the last of them closes it",
        )


def file_system(folder: str) -> str:
    """Return the type of the file system that a directory is on, "" where that cannot be told."""
    folder = os.path.realpath(folder)
    best, kind = "", ""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                _, place, type, *_ = line.split(" ", 3)
                place = place.replace("\\040", " ")
                inside = folder == place or folder.startswith(place.rstrip("/") + "/")
                if inside and len(place) >= len(best):
                    best, kind = place, type
    except (OSError, ValueError):  # not Linux
        return ""
    return kind
