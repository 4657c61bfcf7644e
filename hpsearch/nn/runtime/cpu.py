"""This host: its processor, usable cores, live workers and the number of threads for each.

Does not import torch at the top: torch reads the environment that :func:`prepare_environment`
sets once, when it is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import platform
import re
import sys
import uuid
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hpsearch.errors import SpecError, plural
from hpsearch.util.atomic import check_private_folder, make_private_folder, open_regular

if sys.platform != "win32":
    import fcntl

MOST_THREADS = 1024  # with far more, OpenMP ends the process without a message
_SPINS = 3000  # rounds that a waiting OpenMP thread spins before it sleeps
# M_MMAP_THRESHOLD (32 MiB at most), M_TRIM_THRESHOLD and M_TOP_PAD of glibc's malloc.h, in bytes.
_KEPT_MEMORY = {-3: 2**25, -1: 2**31 - 1, -2: 2**26}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareOptions:
    """The part of the hardware that a run or worker uses; None selects a default.

    ``gpus_per_worker`` is the share of a GPU that a worker needs (None: workers are spread evenly
    over the GPUs).
    """

    device: str = "auto"
    threads: int | None = None
    gpus_per_worker: float | None = None
    mixed_hardware: bool = False


def processor(*, root: Path = Path("/")) -> str:
    """Returns the processor's model name, such as ``AMD EPYC``."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Hardware", "cpu model") and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"


def has_nvidia(*, root: Path = Path("/")) -> bool:
    """Whether Linux lists an NVIDIA GPU, even if torch cannot use it; False on other systems."""
    return (root / "proc/driver/nvidia").is_dir() or any((root / "dev").glob("nvidia[0-9]*"))


def usable_cpus(*, root: Path = Path("/")) -> int:
    """Returns how many cores this process may keep busy, at least 1.

    The smaller of its processor affinity and the whole cores in the quotas of its control group
    and of the groups above it (a container's ``--cpus``, a pod's CPU limit). ``root`` holds
    ``proc`` and ``sys``.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min([cpus, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yields every CPU quota that applies to this process, in cores."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controllers
            mount = mount if mount.is_dir() else root / "sys/fs/cgroup/cpu"
        else:
            continue
        # A container sees its own group as the mount itself, so the path may not exist there.
        inner = mount / path.lstrip("/")
        for group in (inner, *inner.parents):
            with contextlib.suppress(OSError, ValueError):  # version 2, "max" if unlimited
                quota, period = (group / "cpu.max").read_text().split()
                yield float(quota) / float(period)
            with contextlib.suppress(OSError, ValueError):  # version 1, -1 if unlimited
                limit = float((group / "cpu.cfs_quota_us").read_text())
                if limit > 0:
                    yield limit / float((group / "cpu.cfs_period_us").read_text())
            if group == mount:
                break


def cache_directory() -> Path:
    """Returns the cache's folder: HPSEARCH_CACHE, or hpsearch in the user's cache directory."""
    chosen = os.environ.get("HPSEARCH_CACHE")
    if chosen:
        return Path(os.path.expanduser(chosen))
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hpsearch"


def presence_directory() -> Path:
    """Returns the folder of the lock files of this user's workers.

    In the cache directory, not in the folder of temporary files, where other users could plant a
    link, and not in ``XDG_RUNTIME_DIR``: it is removed when the user logs out, and jobs of cron or
    a service lack it, so that workers would not count each other.
    """
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return cache_directory() / f"workers-{user}"


@contextlib.contextmanager
def worker_presence(*, directory: Path | None = None) -> Iterator[None]:
    """Counts this process as a live worker of the host inside the context.

    The worker locks a file. The kernel releases the lock when the process ends, even by a kill,
    so that a killed worker is not counted. Logs a warning if the file cannot be made.
    """
    try:
        path, file = _lock_file(directory or presence_directory())
    except OSError as exc:
        _log.warning(
            "other workers on this host do not count this one (%s); set --threads for each", exc
        )
        yield
        return
    try:
        yield
    finally:
        file.close()  # before the removal: Windows does not remove an open file
        path.unlink(missing_ok=True)


def _lock_prefix() -> str:
    """The host's name: a cache directory may be shared by several hosts."""
    return f"{platform.node()}-"


def _lock_file(directory: Path) -> tuple[Path, IO[bytes]]:
    """Returns a new file in the directory and its handle, which holds a lock."""
    make_private_folder(directory)
    while True:
        path = directory / f"{_lock_prefix()}{os.getpid()}-{uuid.uuid4().hex[:8]}"
        file = open_regular(path, "xb", follow_links=False)
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():  # else live_workers removed it between the opening and the locking
            return path, file
        file.close()


def live_workers(*, directory: Path | None = None) -> int:
    """Returns how many workers of this user run on this host now, this process included.

    Returns 0 if the folder of the lock files is not this user's alone.
    """
    directory = directory or presence_directory()
    try:
        check_private_folder(directory)
        names = os.listdir(directory)
    except OSError:
        return 0
    ours = re.compile(rf"{re.escape(_lock_prefix())}[0-9]+-[0-9a-f]{{8}}")
    return sum(_is_locked(directory / name) for name in names if ours.fullmatch(name))


def _is_locked(path: Path) -> bool:
    """Whether a live process holds the file's lock; removes an empty file if none does."""
    if sys.platform == "win32":
        return True
    try:
        with open_regular(path, follow_links=False) as file:
            # Shared: two processes that count at the same time must not count each other's lock.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_size == 0:  # as _lock_file leaves it
                path.unlink(missing_ok=True)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def decide_threads(*, requested: int | None, workers: int) -> int:
    """Returns the threads of one worker: the requested number, or its share of the usable cores.

    Args:
        requested: the value of ``--threads``, or None.
        workers: the number of workers about to start on this host; if more are already running,
            their number is used.

    Raises:
        SpecError: the requested number is out of range.
    """
    if requested is not None:
        if type(requested) is not int or not 1 <= requested <= MOST_THREADS:
            raise SpecError(
                f"threads: found {requested!r}, expected a whole number from 1 to {MOST_THREADS};"
                f" this machine has {plural(usable_cpus(), 'usable core')}"
            )
        return requested
    return max(1, usable_cpus() // max(1, workers, live_workers()))


def prepare_environment(
    threads: int, *, environment: MutableMapping[str, str] | None = None
) -> None:
    """Sets the number of threads and passive waiting for torch; call it before importing torch.

    OpenMP threads that spin at a barrier use the core that the awaited thread needs: beside one
    busy process, an epoch took 35 times longer on 2 cores of an AMD EPYC. Sleeping at once slows
    small models by a quarter on an idle machine, so threads first spin for some microseconds. On 2
    cores of an Intel Xeon (six models, 28×28, two threads), an epoch then took 0.79 of its time
    without spinning, and 1.14 beside a busy process (with 10,000 rounds: 0.72 and 1.44). A waiting
    policy in the user's environment is kept.
    """
    target = os.environ if environment is None else environment
    if "torch" in sys.modules and "OMP_WAIT_POLICY" not in target:
        _log.debug("torch is already imported: passive waiting applies to child processes only")
    target.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if target["OMP_WAIT_POLICY"].upper() == "PASSIVE":
        target.setdefault("GOMP_SPINCOUNT", str(_SPINS))
        target.setdefault("KMP_BLOCKTIME", "0")  # passive for LLVM's and Intel's OpenMP
    target["OMP_NUM_THREADS"] = target["MKL_NUM_THREADS"] = str(threads)


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for later tensors; does nothing with another C library.

    By default glibc returns large blocks to the system, which must zero their pages at the next
    allocation. With kept memory a step of small models took 0 to 15 % less time, with 1 to 50 % of
    the page faults and the same peak (six models, 28×28, one thread of an Intel Xeon).
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, size in _KEPT_MEMORY.items():
            mallopt(parameter, size)


def apply_threads(threads: int) -> None:
    """Sets the number of threads that torch uses in this process."""
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
