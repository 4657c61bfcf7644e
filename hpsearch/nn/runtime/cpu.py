"""This host: its processor, the cores a process may use, its live workers and their threads.

Never imports torch at its top: what :func:`prepare_environment` sets is read once, when torch is
imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import platform
import sys
import tempfile
import uuid
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import IO

from hpsearch.errors import SpecError

if sys.platform != "win32":
    import fcntl

MOST_THREADS = 1024  # far more than this, and OpenMP ends the process without a word
_SPINS = 3000  # of a waiting OpenMP thread before it sleeps

_log = logging.getLogger(__name__)


def processor(*, root: Path = Path("/")) -> str:
    """Returns the processor's model name, such as ``AMD EPYC``."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Hardware", "cpu model") and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"


def has_nvidia(*, root: Path = Path("/")) -> bool:
    """Whether there is an NVIDIA GPU, whatever torch makes of it (Linux tells)."""
    return (root / "proc/driver/nvidia").is_dir() or any((root / "dev").glob("nvidia[0-9]*"))


def usable_cpus(*, root: Path = Path("/")) -> int:
    """Returns how many cores this process may keep busy, at least 1.

    That is the smaller of its processor affinity and the whole cores in the quotas of its control
    group and of the groups around it (a container's ``--cpus``, a pod's CPU limit). ``root`` is
    where ``proc`` and ``sys`` are found.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min([cpus, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yields every CPU quota that holds for this process, in cores."""
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
            yield from _quota(group)
            if group == mount:
                break


def _quota(group: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()  # version 2, "max" if unlimited
        yield float(quota) / float(period)
    with contextlib.suppress(OSError, ValueError):
        limit = float((group / "cpu.cfs_quota_us").read_text())  # version 1, -1 if unlimited
        if limit > 0:
            yield limit / float((group / "cpu.cfs_period_us").read_text())


def runtime_directory() -> Path:
    """Returns where this user's workers on this host hold their files."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"hpsearch-workers-{user}"


@contextlib.contextmanager
def worker_presence(*, directory: Path | None = None) -> Iterator[None]:
    """Counts this process among the host's live workers while the context lasts.

    The worker holds a lock on a file of its own. The kernel releases the lock when the process
    dies, however it dies, so a killed worker is never counted.
    """
    directory = directory or runtime_directory()
    try:
        path, file = _hold(directory)
    except OSError as exc:
        _log.warning("this worker is not counted on this host: %s; give --threads", exc)
        yield
        return
    try:
        yield
    finally:
        file.close()  # first: Windows removes no open file
        path.unlink(missing_ok=True)


def _hold(directory: Path) -> tuple[Path, IO[bytes]]:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        path = directory / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        file = path.open("wb")
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():  # not swept by a counter between the opening and the locking
            return path, file
        file.close()


def live_workers(*, directory: Path | None = None) -> int:
    """Returns how many workers of this user run on this host now, this process included."""
    directory = directory or runtime_directory()
    try:
        paths = list(directory.iterdir())
    except OSError:
        return 0
    return sum(_is_held(path) for path in paths)


def _is_held(path: Path) -> bool:
    """Whether a live process holds the file; sweeps it away if none does."""
    if sys.platform == "win32":
        return True
    try:
        with path.open("rb") as file:
            # Shared, so that two processes that count at once do not take each other for workers.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def decide_threads(*, requested: int | None, workers: int) -> int:
    """Returns the threads of one worker: those requested, else its share of the usable cores.

    Args:
        requested: what ``--threads`` says, or None.
        workers: how many workers are about to run on this host; those that already live count
            too, if they are more.

    Raises:
        SpecError: so many threads cannot be had.
    """
    if requested is not None:
        if type(requested) is not int or not 1 <= requested <= MOST_THREADS:
            raise SpecError(
                f"threads: found {requested!r}, expected a whole number from 1 to {MOST_THREADS};"
                f" {usable_cpus()} of this machine's cores can be used"
            )
        return requested
    return max(1, usable_cpus() // max(1, workers, live_workers()))


def prepare_environment(
    threads: int, *, environment: MutableMapping[str, str] | None = None
) -> None:
    """Sets the thread count and passive waiting for torch; call it before torch is imported.

    OpenMP threads that spin at their barriers burn the core which the thread they wait for needs:
    with one busy neighbour an epoch took some 35 times longer on 2 cores of an AMD EPYC. But to
    sleep at once costs small nets a quarter of their speed on a quiet machine, so they spin for
    some microseconds first: on 2 cores of an Intel Xeon, six nets of 28×28, an epoch of two threads
    took 0.79 of the time alone, and 1.14 of it beside a busy process, of that with no spinning at
    all (10,000 rounds: 0.72 and 1.44). A waiting policy that the user has chosen stays.
    """
    target = os.environ if environment is None else environment
    if "torch" in sys.modules and "OMP_WAIT_POLICY" not in target:
        _log.debug("torch is imported already: passive waiting holds for child processes only")
    target.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if target["OMP_WAIT_POLICY"].upper() == "PASSIVE":
        target.setdefault("GOMP_SPINCOUNT", str(_SPINS))
        target.setdefault("KMP_BLOCKTIME", "0")  # passive for LLVM's and Intel's OpenMP
    target["OMP_NUM_THREADS"] = target["MKL_NUM_THREADS"] = str(threads)


def keep_freed_memory() -> None:
    """Makes the C library keep the memory that tensors give back, for the tensors to come.

    glibc returns large blocks to the system, which zeroes every page of them anew when they come
    back. Kept, a step of small nets took 0 to 15 % less time, with 1 to 50 % of the page faults
    and the same peak (six nets, 28×28, one thread of an Intel Xeon). Nothing where it is not glibc.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, size in _KEPT_MEMORY.items():
            mallopt(parameter, size)


# M_MMAP_THRESHOLD (32 MiB at most), M_TRIM_THRESHOLD and M_TOP_PAD of glibc's malloc.h, in bytes.
_KEPT_MEMORY = {-3: 2**25, -1: 2**31 - 1, -2: 2**26}


def apply_threads(threads: int) -> None:
    """Makes torch in this process compute with that many threads."""
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
