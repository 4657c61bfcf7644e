"""The identity of a process that runs a trial, and whether that process has certainly ended."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def identity() -> dict[str, Any]:
    """Returns the identity of this process: host, boot, namespace, pid and start time."""
    pid, node, namespace = os.getpid(), uuid.getnode(), None
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return {
        "host": socket.gethostname(),
        # The address of a network card, because machines cloned from one image share their name.
        "node": None if node >> 40 & 1 else node,  # Python draws a random number without a card
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "namespace": namespace,
        "pid": pid,
        "started": _started(pid),
    }


def is_gone(process: Mapping[str, Any]) -> bool:
    """Whether the process has certainly ended; False if this host cannot know.

    It has ended if it ran on this host before the last boot, or if its pid is free or belongs to a
    process that started at another time.
    """
    here = identity()
    # Another host's processes cannot be seen.
    if any(process.get(key) != here[key] for key in ("host", "node")):
        return False
    if process.get("boot") != here["boot"]:
        return True
    # Another container's pids mean other processes here.
    if process.get("namespace") != here["namespace"]:
        return False
    started = _started(process["pid"])
    if started is not None:
        return bool(started != process.get("started"))
    # Without an entry in /proc, or as a zombie, it has ended; without /proc, the system is asked.
    if Path("/proc/self").exists():
        return True
    if sys.platform == "win32":
        return False  # os.kill with 0 would send Ctrl-C there
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _started(pid: int) -> int | None:
    """The start time in clock ticks since boot; None without /proc, and for an ended process."""
    stat = _read(f"/proc/{pid}/stat")
    if stat is None:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces
    return None if fields[0] in "ZX" else int(fields[19])


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
