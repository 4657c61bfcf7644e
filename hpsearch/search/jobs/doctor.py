"""What this machine and this database are good for, and what to mend."""

from __future__ import annotations

import contextlib
import enum
import io
import os
import platform
import secrets
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import sqlalchemy
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection
from sqlalchemy import text as sql
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.core.plural import plural
from hpsearch.errors import HpsearchError, NotMadeError, StorageError
from hpsearch.nn.data import builtin, cache
from hpsearch.nn.runtime import cpu
from hpsearch.search.storage.artifacts import Artifacts, open_artifacts
from hpsearch.search.storage.engine import (
    engine_options,
    filesystem,
    network_filesystem,
    sqlalchemy_url,
)
from hpsearch.search.storage.retry import first_line
from hpsearch.search.storage.storage import Storage, check_storage, open_storage
from hpsearch.search.storage.url import mask, parse_url
from hpsearch.search.study import catalog

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


def examine(storage: str, *, data_dir: Path | None, artifacts: str | None) -> list[Finding]:
    """Looks at Python, torch, devices, threads, folders and the database.

    Leaves nothing changed: what it writes to see whether it can is taken back.
    """
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _torch,
        _threads,
        lambda: _folders(data_dir),
        lambda: _storage(storage),
        lambda: _checkpoints(storage, artifacts),
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
        from hpsearch.nn.runtime import device

        builtin.import_torchvision()
    except (ImportError, RuntimeError, OSError) as exc:
        advice = "install the two as a pair: pip install --upgrade torch torchvision"
        yield _bad("torch", f"{versions}: {first_line(exc)}", advice)
        return
    yield _good("torch", versions)
    picked = device.pick_device("auto")
    for name in device.available():
        described = device.describe(device.pick_device(name))
        yield _good("device", described + (" (auto)" if name == str(picked) else ""))
    yield from _idle_gpu(device.cuda_version())
    native = device.autocast_dtype(picked) is not None
    yield _good("bf16", "in hardware, and used" if native else "not in hardware: float32 is used")


def _idle_gpu(built_for: str | None) -> Iterator[Finding]:
    """A GPU that torch makes nothing of; none is missed where it is hidden on purpose."""
    from hpsearch.nn.runtime import device

    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or not cpu.has_nvidia() or "cuda:0" in device.available():
        return
    if built_for is None:
        advice = "install torch for CUDA, see pytorch.org/get-started (in Docker: VARIANT=cuda)"
        yield _fair("gpu", "an NVIDIA GPU is here, but torch is built without CUDA", advice)
    else:
        advice = "update the driver; `nvidia-smi` tells which CUDA it serves"
        yield _fair(
            "gpu", f"an NVIDIA GPU is here, but torch for CUDA {built_for} cannot use it", advice
        )


def _threads() -> Iterator[Finding]:
    cpus, alive = cpu.usable_cpus(), cpu.live_workers()
    busy = f", {plural(alive, 'worker')} at work" if alive else ""
    yield _good("cores", f"{cpus} usable: {cpu.processor()}{busy}")
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
    kept = cache.directory()
    found = _folder("cache", kept, "name another with HPSEARCH_CACHE")
    if found.health is Health.GOOD and network_filesystem(kept) is not None:
        advice = "name a local folder with HPSEARCH_CACHE: images are mapped from it, not read once"
        found = _fair("cache", found.found, advice)
    yield found


def _folder(name: str, path: Path, otherwise: str) -> Finding:
    there = next((p for p in (path.absolute(), *path.absolute().parents) if p.exists()), path)
    if not there.is_dir() or not os.access(there, os.W_OK):
        return _bad(name, f"{path} cannot be written", f"mend {there}, or {otherwise}")
    free = shutil.disk_usage(there).free
    found = f"{path}{_kind_of(path)}, {free / 2**30:.0f} GiB free"
    if free < _LOW_DISK:
        return _fair(name, found, f"make room, or {otherwise}")
    return _good(name, found if path.exists() else f"{found} (made when needed)")


def _kind_of(path: Path) -> str:
    """The file system that a path lies on, in words; nothing where the system does not tell."""
    kind = filesystem(path)
    network = ", over the network" if network_filesystem(path) is not None else ""
    return f" on {kind}{network}" if kind is not None else ""


def _storage(storage: str) -> Iterator[Finding]:
    try:
        url = parse_url(storage)
        check_storage(storage)
        opened = open_storage(storage, create=False)
    except NotMadeError:
        yield _unmade(url)
        return
    except HpsearchError as exc:
        yield _bad("storage", str(exc), "mend it, or name another with --storage")
        return
    try:
        names = catalog.study_names(opened)
        found = f"{_shown(url)}, {len(names)} stud{'y' if len(names) == 1 else 'ies'}"
        _write_and_take_back(opened)
        yield _good("storage", f"{found}, can be written")
        yield _latency(opened.engine)
    except (SQLAlchemyError, StorageInternalError, StorageError) as exc:
        yield _bad("storage", f"{_shown(url)}: {_said(exc)}", _advice(url))
    finally:
        opened.close()


def _shown(url: URL) -> str:
    is_file = url.get_backend_name() == "sqlite"
    return mask(url) + (_kind_of(Path(url.database or "")) if is_file else "")


def _said(exc: BaseException) -> str:
    """What the driver said of it, whatever that is wrapped in."""
    while exc.__cause__ is not None and not isinstance(exc, SQLAlchemyError):
        exc = exc.__cause__
    return first_line(exc)


def _advice(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return "mend its permissions, or name another with --storage"
    return (
        "name a server that can be written, or have the owner GRANT ALL on schema public and on"
        " its tables and sequences to this role"
    )


def _unmade(url: URL) -> Finding:
    """What is said of a database that the first run makes, if it can."""
    if url.get_backend_name() != "sqlite":
        engine = sqlalchemy.create_engine(sqlalchemy_url(url), **engine_options(url))
        try:
            with engine.connect() as connection:  # which takes it back at its end
                connection.execute(sql("CREATE TABLE hpsearch_doctor (id INTEGER)"))
        except SQLAlchemyError as exc:
            return _bad("storage", f"{mask(url)}: {_said(exc)}", _advice(url))
        finally:
            engine.dispose()
    return _good("storage", f"{_shown(url)} (made by the first run)")


class _TakenBackError(Exception):
    """Ends a transaction without a trace."""


def _write_and_take_back(opened: Storage) -> None:
    """Writes a study and a trial as a search does, in a transaction that is rolled back."""
    with contextlib.suppress(_TakenBackError), opened.transaction():
        study = opened.backend.create_new_study([StudyDirection.MAXIMIZE])
        trial = opened.backend.create_new_trial(study)
        opened.backend.set_trial_user_attr(trial, "doctor", 1)
        raise _TakenBackError


def _checkpoints(storage: str, artifacts: str | None) -> Iterator[Finding]:
    try:
        url = parse_url(storage)
    except HpsearchError:
        return  # it is told of the storage
    try:
        kept = open_artifacts(url, artifacts)
    except HpsearchError as exc:
        yield _bad("checkpoints", str(exc), "mend it, or name another with --artifacts")
        return
    if kept is None:
        advice = "name a folder that all workers see with --artifacts"
        yield _fair("checkpoints", "nowhere: a trial whose worker dies starts over", advice)
    elif kept.folder is None:
        yield _bucket(kept, str(artifacts))
    else:
        yield _folder("checkpoints", kept.folder, "name another with --artifacts")


def _bucket(kept: Artifacts, place: str) -> Finding:
    """Whether a small object can be saved on S3, read and removed again."""
    key = f"hpsearch-doctor-{secrets.token_hex(8)}"
    failures: tuple[type[Exception], ...] = (*kept.errors, ArtifactNotFound)
    try:
        kept.store.write(key, io.BytesIO(b"hpsearch"))
        with kept.store.open_reader(key) as file:
            file.read()
        kept.store.remove(key)
    except failures as exc:
        advice = "mend the bucket, its policy, AWS_ENDPOINT_URL or the credentials"
        return _bad("checkpoints", f"{place}: {first_line(exc)}", advice)
    return _good("checkpoints", f"{place}, can be written, read and removed")


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
