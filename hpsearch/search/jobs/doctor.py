"""Checks this machine and database, and suggests fixes."""

from __future__ import annotations

import enum
import io
import os
import platform
import secrets
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy import text as sql
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.errors import HpsearchError, NotMadeError, StorageError, plural
from hpsearch.nn.data import builtin
from hpsearch.nn.runtime import cpu
from hpsearch.search.storage.artifacts import Artifacts, open_artifacts
from hpsearch.search.storage.database_file import filesystem, network_filesystem
from hpsearch.search.storage.engine import engine_options, sqlalchemy_url
from hpsearch.search.storage.retry import first_line
from hpsearch.search.storage.storage import check_storage, open_storage
from hpsearch.search.storage.url import mask, parse_url
from hpsearch.search.study import catalog
from hpsearch.util.atomic import check_private_folder

_ROUND_TRIPS = 21
_SLOW_MS = 50.0
_LOW_DISK = 2**30


class Health(enum.Enum):
    """The result of a check."""

    GOOD = "good"
    FAIR = "fair"  # works, but not as well as it could
    BAD = "bad"  # a search would fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check; ``advice`` is the fix, empty if ``health`` is GOOD."""

    name: str
    health: Health
    found: str
    advice: str = ""


def examine(storage: str, *, data_dir: Path | None, artifacts: str | None) -> list[Finding]:
    """Checks Python, torch, devices, threads, folders and the database.

    Changes nothing: test writes are rolled back or removed.
    """
    return [
        _good("python", f"{platform.python_version()} on {platform.platform(terse=True)}"),
        _good("hpsearch", f"{version('hpsearch')}, optuna {version('optuna')}"),
        *_check_torch(),
        *_check_load(),
        *_check_folders(data_dir),
        *_check_storage(storage),
        *_check_checkpoints(storage, artifacts),
    ]


def _good(name: str, found: str) -> Finding:
    return Finding(name=name, health=Health.GOOD, found=found)


def _fair(name: str, found: str, advice: str) -> Finding:
    return Finding(name=name, health=Health.FAIR, found=found, advice=advice)


def _bad(name: str, found: str, advice: str) -> Finding:
    return Finding(name=name, health=Health.BAD, found=found, advice=advice)


def _check_torch() -> Iterator[Finding]:
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
    # Users hide a GPU on purpose with an empty list or -1.
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if not is_hidden and cpu.has_nvidia() and "cuda:0" not in device.available():
        advice = "update the driver; `nvidia-smi` shows the CUDA version that it supports"
        problem = f"torch for CUDA {device.cuda_version()} cannot use it"
        if device.cuda_version() is None:
            advice = "install torch for CUDA, see pytorch.org/get-started (in Docker: VARIANT=cuda)"
            problem = "torch is built without CUDA"
        yield _fair("gpu", f"found an NVIDIA GPU, but {problem}", advice)
    is_native = device.autocast_dtype(picked) is not None
    yield _good(
        "bf16", "in hardware, and used" if is_native else "not in hardware: float32 is used"
    )


def _check_load() -> Iterator[Finding]:
    cpus, alive = cpu.usable_cpus(), cpu.live_workers()
    busy = f", {plural(alive, 'worker')} running" if alive else ""
    yield _good("cores", f"{cpus} usable: {cpu.processor()}{busy}")
    try:
        check_private_folder(cpu.presence_directory())
    except FileNotFoundError:
        pass  # made by the first worker
    except OSError as exc:
        advice = "remove it, or fix its permissions: until then each worker uses all cores"
        yield _fair("workers", str(exc), advice)
    policy = os.environ.get("OMP_WAIT_POLICY", "")
    if policy and policy.upper() != "PASSIVE":
        advice = "unset it: spinning threads slow down a search as soon as anything else runs"
        yield _fair("threads", f"OMP_WAIT_POLICY={policy}", advice)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > cpus:
        advice = "close other programs: times measured on a busy machine are noisy"
        yield _fair("load", f"{load:.1f} on {cpus} cores", advice)


def _check_folders(data_dir: Path | None) -> Iterator[Finding]:
    yield _check_folder("data", data_dir or Path("data"), "choose another with --data-dir")
    folder = cpu.cache_directory()
    finding = _check_folder("cache", folder, "choose another with HPSEARCH_CACHE")
    if finding.health is Health.GOOD and network_filesystem(folder) is not None:
        advice = "set HPSEARCH_CACHE to a local folder: images are mapped from it while training"
        finding = _fair("cache", finding.found, advice)
    yield finding


def _check_folder(name: str, path: Path, alternative: str) -> Finding:
    absolute = path.absolute()
    parent = next((p for p in (absolute, *absolute.parents) if p.exists()), path)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        advice = f"fix the permissions of {parent}, or {alternative}"
        return _bad(name, f"{path} cannot be written", advice)
    free = shutil.disk_usage(parent).free
    found = f"{path}{_filesystem_note(path)}, {free / 2**30:.0f} GiB free"
    if free < _LOW_DISK:
        return _fair(name, found, f"free some space, or {alternative}")
    return _good(name, found if path.exists() else f"{found} (created when needed)")


def _filesystem_note(path: Path) -> str:
    """The kind of file system that holds a path, as a phrase; empty if the system hides it."""
    kind = filesystem(path)
    network = ", over the network" if network_filesystem(path) is not None else ""
    return f" on {kind}{network}" if kind is not None else ""


def _check_storage(storage: str) -> Iterator[Finding]:
    try:
        url = parse_url(storage)
        check_storage(storage)
        opened = open_storage(storage, create=False)
    except NotMadeError:
        yield _check_missing(url)
        return
    except HpsearchError as exc:
        yield _bad("storage", str(exc), "fix it, or choose another with --storage")
        return
    try:
        names = catalog.study_names(opened)
        studies = f"{len(names)} stud{'y' if len(names) == 1 else 'ies'}"
        opened.check_writable()
        yield _good("storage", f"{_describe(url)}, {studies}, can be written")
        yield _check_latency(opened.engine)
    except (SQLAlchemyError, StorageInternalError, StorageError) as exc:
        yield _bad("storage", f"{_describe(url)}: {_driver_message(exc)}", _permissions_advice(url))
    finally:
        opened.close()


def _describe(url: URL) -> str:
    is_file = url.get_backend_name() == "sqlite"
    return mask(url) + (_filesystem_note(Path(url.database or "")) if is_file else "")


def _driver_message(exc: BaseException) -> str:
    """The first line of the driver's message, from inside Optuna's exceptions."""
    while exc.__cause__ is not None and not isinstance(exc, SQLAlchemyError):
        exc = exc.__cause__
    return first_line(exc)


def _permissions_advice(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return "fix its permissions, or choose another with --storage"
    return (
        "choose a server that can be written, or have the owner GRANT ALL on schema public and on"
        " its tables and sequences to this role"
    )


def _check_missing(url: URL) -> Finding:
    """Checks whether the first run can create the tables of a database that has none."""
    if url.get_backend_name() != "sqlite":
        engine = sqlalchemy.create_engine(sqlalchemy_url(url), **engine_options(url))
        try:
            with engine.connect() as connection:  # rolls back when it is closed
                connection.execute(sql("CREATE TABLE hpsearch_doctor (id INTEGER)"))
        except SQLAlchemyError as exc:
            return _bad("storage", f"{mask(url)}: {_driver_message(exc)}", _permissions_advice(url))
        finally:
            engine.dispose()
    return _good("storage", f"{_describe(url)} (created by the first run)")


def _check_checkpoints(storage: str, artifacts: str | None) -> Iterator[Finding]:
    try:
        url = parse_url(storage)
    except HpsearchError:
        return  # reported by the storage check
    try:
        opened = open_artifacts(url, artifacts)
    except HpsearchError as exc:
        yield _bad("checkpoints", str(exc), "fix it, or choose another with --artifacts")
        return
    if opened is None:
        advice = "pass --artifacts with a folder that all workers can reach"
        yield _fair("checkpoints", "nowhere: a trial whose worker dies starts over", advice)
    elif opened.folder is None:
        yield _check_bucket(opened, str(artifacts))
    else:
        yield _check_folder("checkpoints", opened.folder, "choose another with --artifacts")


def _check_bucket(artifacts: Artifacts, location: str) -> Finding:
    """Writes, reads and removes a small object on S3."""
    key = f"hpsearch-doctor-{secrets.token_hex(8)}"
    failures: tuple[type[Exception], ...] = (*artifacts.errors, *artifacts.missing)
    try:
        artifacts.store.write(key, io.BytesIO(b"hpsearch"))
        with artifacts.store.open_reader(key) as file:
            file.read()
        artifacts.store.remove(key)
    except failures as exc:
        advice = "check the bucket, its policy, AWS_ENDPOINT_URL and the credentials"
        return _bad("checkpoints", f"{location}: {first_line(exc)}", advice)
    return _good("checkpoints", f"{location}, can be written, read and removed")


def _check_latency(engine: Engine) -> Finding:
    """Measures the median round trip of a query on an open connection, in milliseconds."""
    times = []
    with engine.connect() as connection:
        for _ in range(_ROUND_TRIPS):
            began = time.perf_counter()
            connection.execute(sql("SELECT 1"))
            times.append(time.perf_counter() - began)
    median_ms = 1e3 * statistics.median(times)
    if median_ms > _SLOW_MS:
        advice = "run workers closer to the database: each epoch takes one or two queries"
        return _fair("latency", f"{median_ms:.1f} ms a query", advice)
    return _good("latency", f"{median_ms:.2f} ms a query")
