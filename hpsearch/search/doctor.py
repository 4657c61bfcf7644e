"""What this machine and this database are good for, and what to mend."""

from __future__ import annotations

import enum
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy import text as sql
from sqlalchemy.engine import Engine

from hpsearch.errors import HpsearchError
from hpsearch.nn import cache, host, named
from hpsearch.search import catalog
from hpsearch.search.artifacts import Artifacts
from hpsearch.search.storage import check_storage, exists, open_storage
from hpsearch.search.url import mask, parse_url

_ROUND_TRIPS = 21
_SLOW_MS = 50.0
_LOW_DISK = 2**30


class Health(enum.Enum):
    """How a thing was found."""

    GOOD = "good"
    FAIR = "fair"  # works, but not as well as it could
    BAD = "bad"  # a search would fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at; ``advice`` says what to do where it is not good."""

    name: str
    health: Health
    found: str
    advice: str = ""


def as_plain(finding: Finding) -> dict[str, Any]:
    """Returns the finding as JSON can hold it."""
    return {**asdict(finding), "health": finding.health.value}


def examine(storage: str, *, data_dir: Path | None, artifacts: str | None) -> list[Finding]:
    """Looks at Python, torch, devices, threads, folders and the database; changes nothing."""
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _torch,
        _threads,
        lambda: _folders(data_dir),
        lambda: _storage(storage, artifacts),
    )
    return [finding for look in looks for finding in look()]


def _good(name: str, found: str) -> Finding:
    return Finding(name=name, health=Health.GOOD, found=found)


def _fair(name: str, found: str, advice: str) -> Finding:
    return Finding(name=name, health=Health.FAIR, found=found, advice=advice)


def _bad(name: str, found: str, advice: str) -> Finding:
    return Finding(name=name, health=Health.BAD, found=found, advice=advice)


def _python() -> Iterator[Finding]:
    yield _good("python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield _good("hpsearch", f"{version('hpsearch')}, optuna {version('optuna')}")


def _torch() -> Iterator[Finding]:
    versions = f"torch {version('torch')}, torchvision {version('torchvision')}"
    try:
        from hpsearch.nn import device

        named.import_torchvision()
    except (ImportError, RuntimeError, OSError) as exc:
        said = next(iter(str(exc).splitlines()), repr(exc))
        advice = "install the two as a pair: pip install --upgrade torch torchvision"
        yield _bad("torch", f"{versions}: {said}", advice)
        return
    yield _good("torch", versions)
    picked = device.pick_device("auto")
    for name in device.available():
        described = device.describe(device.pick_device(name))
        yield _good("device", described + (" (auto)" if name == str(picked) else ""))
    native = device.autocast_dtype(picked) is not None
    yield _good("bf16", "in hardware, and used" if native else "not in hardware: float32 is used")


def _threads() -> Iterator[Finding]:
    cpus, alive = host.usable_cpus(), host.live_workers()
    busy = f", {alive} worker{'s' * (alive != 1)} at work" if alive else ""
    yield _good("cores", f"{cpus} usable: {host.processor()}{busy}")
    policy = os.environ.get("OMP_WAIT_POLICY", "")
    if policy and policy.upper() != "PASSIVE":
        advice = "unset it: threads that spin slow a search down beside any other load"
        yield _fair("threads", f"OMP_WAIT_POLICY={policy}", advice)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > cpus:
        advice = "end what else runs: times measured on a busy machine are noisy"
        yield _fair("load", f"{load:.1f} on {cpus} cores", advice)


def _folders(data_dir: Path | None) -> Iterator[Finding]:
    yield _folder("data", data_dir or Path("data"), "name another with --data-dir")
    yield _folder("cache", cache.directory(), "name another with HPSEARCH_CACHE")


def _folder(name: str, path: Path, otherwise: str) -> Finding:
    there = next((p for p in (path.absolute(), *path.absolute().parents) if p.exists()), path)
    if not there.is_dir() or not os.access(there, os.W_OK):
        return _bad(name, f"{path} cannot be written", f"mend {there}, or {otherwise}")
    free = shutil.disk_usage(there).free
    found = f"{path}, {free / 2**30:.0f} GiB free"
    if free < _LOW_DISK:
        return _fair(name, found, f"make room, or {otherwise}")
    return _good(name, found if path.exists() else f"{found} (made when needed)")


def _storage(storage: str, artifacts: str | None) -> Iterator[Finding]:
    try:
        url = parse_url(storage)
        masked = mask(url)
        check_storage(storage, artifacts=artifacts)
        if not exists(storage):
            yield _good("storage", f"{masked} (made by the first run)")
            return
    except HpsearchError as exc:
        yield _bad("storage", str(exc), "mend it, or name another with --storage")
        return
    try:
        opened = open_storage(storage, create=False, artifacts=artifacts)
    except HpsearchError as exc:  # it can be used, but is not made yet
        yield _good("storage", str(exc))
        return
    try:
        names = catalog.study_names(opened)
        yield _good("storage", f"{masked}, {len(names)} stud{'y' if len(names) == 1 else 'ies'}")
        yield _latency(opened.engine)
    finally:
        opened.close()
    yield _checkpoints(opened.artifacts)


def _checkpoints(artifacts: Artifacts | None) -> Finding:
    if artifacts is None:
        advice = "name a folder that all workers see with --artifacts"
        return _fair("checkpoints", "nowhere: a trial whose worker dies starts over", advice)
    if artifacts.folder is None:
        return _good("checkpoints", "in S3")
    return _folder("checkpoints", artifacts.folder, "name another with --artifacts")


def _latency(engine: Engine) -> Finding:
    """The median time of a question to the database, the connection being open."""
    times = []
    with engine.connect() as connection:
        for _ in range(_ROUND_TRIPS):
            began = time.perf_counter()
            connection.execute(sql("SELECT 1"))
            times.append(time.perf_counter() - began)
    median_ms = 1e3 * statistics.median(times)
    if median_ms > _SLOW_MS:
        advice = "run workers nearer to the database: each epoch asks it once or twice"
        return _fair("latency", f"{median_ms:.1f} ms a question", advice)
    return _good("latency", f"{median_ms:.2f} ms a question")


__all__ = ["Finding", "Health", "as_plain", "examine"]
