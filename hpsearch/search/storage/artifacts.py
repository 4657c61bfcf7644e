"""The store of checkpoints: a folder beside the database, a shared folder, or S3."""

from __future__ import annotations

import contextlib
import glob
import io
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sqlalchemy.engine import URL

from hpsearch.core.trial import State, TrialRecord
from hpsearch.errors import StorageError, mask_text
from hpsearch.search.storage.database_file import real_path
from hpsearch.search.storage.url import looks_like_url
from hpsearch.util.atomic import open_regular

if TYPE_CHECKING:  # importing them loads boto3, which takes longer than to read a study
    from optuna.artifacts import Boto3ArtifactStore
    from optuna.artifacts._protocol import ArtifactStore

_CONNECT_SECONDS, _ANSWER_SECONDS, _TRIES = 5.0, 20.0, 2  # limits for S3
_DRAFT = re.compile(r"\.[0-9a-f]{16}\.part$")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifacts:
    """A store of files by key, read and written through Optuna's artifact stores.

    Not through ``upload_artifact``, whose rows in the database cannot be removed again. ``folder``
    is None on S3. ``missing`` are the store's exceptions for a key that it does not hold,
    ``errors`` those when it is full or away: these are only logged, because a missing checkpoint
    costs time, never a trial.
    """

    store: ArtifactStore
    folder: Path | None
    missing: tuple[type[Exception], ...] = (FileNotFoundError,)
    errors: tuple[type[Exception], ...] = (OSError,)

    def save(self, key: str, content: bytes) -> None:
        """Writes a file atomically: a reader gets the old content or the new one."""
        with self._log_errors(f"{key} was not written"):
            if self.folder is None:  # an S3 object appears when its upload is complete
                self.store.write(key, io.BytesIO(content))
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            draft = f"{key}.{secrets.token_hex(8)}.part"  # two containers may share a pid
            try:
                self.store.write(draft, io.BytesIO(content))
                os.replace(self.folder / draft, self.folder / key)
            except OSError:  # free the space: the database may be on the same full disk
                (self.folder / draft).unlink(missing_ok=True)
                raise

    @contextlib.contextmanager
    def _log_errors(self, consequence: str) -> Iterator[None]:
        try:
            yield
        except self.errors as exc:
            _log.warning("the checkpoint %s: %s", consequence, exc)

    def read(self, key: str) -> bytes | None:
        """Returns a file's content; None if it is missing, or is a link, a pipe or a device."""
        with self._log_errors(f"{key} cannot be read"):
            try:
                # The names of checkpoints are known: in a shared folder, a pipe would block us.
                with (
                    self.store.open_reader(key)
                    if self.folder is None
                    else open_regular(self.folder / key, follow_links=False)
                ) as file:
                    return file.read()
            except self.missing:
                return None
        return None

    def keys(self, prefix: str) -> list[str]:
        """Returns the keys with that prefix; for a half-written file, the key of the whole one."""
        with self._log_errors(f"{prefix}… cannot be listed"):
            if isinstance(self.store, _Prefixed):
                return self.store.keys(prefix)
            paths = self.folder.glob(f"{glob.escape(prefix)}*") if self.folder is not None else ()
            return [_DRAFT.sub("", path.name) for path in paths]
        return []

    def remove(self, key: str) -> None:
        """Removes a file, if it exists, and the drafts that killed writers left behind."""
        with self._log_errors(f"{key} was not removed"):
            with contextlib.suppress(*self.missing):
                self.store.remove(key)
            if self.folder is not None:
                for draft in self.folder.glob(f"{glob.escape(key)}.*.part"):
                    if _DRAFT.sub("", draft.name) == key:  # else another program's file
                        draft.unlink(missing_ok=True)


def open_artifacts(url: URL, location: str | None) -> Artifacts | None:
    """Returns the store of a database's checkpoints; None without a location.

    The location is a folder that every worker sees, or ``s3://BUCKET/PREFIX``; None: beside an
    SQLite file (``<file>.artifacts``), and no store for PostgreSQL.

    Raises:
        StorageError: the location cannot be used.
    """
    if location is None:
        if url.get_backend_name() != "sqlite":
            return None
        location = f"{real_path(url)}.artifacts"
    if location.startswith("s3://"):
        return _on_s3(location)
    if looks_like_url(location):
        raise StorageError(
            f"--artifacts: found {mask_text(location)!r}, expected a folder or s3://BUCKET/PREFIX;"
            " correct it, and write a folder with such a name as ./FOLDER"
        )
    folder = Path(os.path.expanduser(location))
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        usable = bool(location) and nearest.is_dir() and os.access(nearest, os.W_OK)
    except OSError:  # its name is too long, or a parent folder may not be read
        usable = False
    if not usable:
        raise StorageError(
            f"--artifacts: {mask_text(location)[:200]!r} is not a folder that can be written; fix"
            " its permissions or name another"
        )
    from optuna.artifacts import FileSystemArtifactStore

    return Artifacts(store=FileSystemArtifactStore(folder), folder=folder, missing=_missing())


def _missing() -> tuple[type[Exception], ...]:
    from optuna.artifacts.exceptions import ArtifactNotFound

    return ArtifactNotFound, FileNotFoundError


def check_artifacts(url: URL, location: str | None) -> None:
    """Checks that a location can be used; on S3, that the bucket exists.

    Raises:
        StorageError: the location cannot be used.
    """
    opened = open_artifacts(url, location)
    if opened is None or not isinstance(opened.store, _Prefixed):
        return
    try:
        opened.store.check()
    except opened.errors as exc:
        code = getattr(exc, "response", {}).get("Error", {}).get("Code")
        if code != "403":  # a key may allow reading and writing objects, but not this request
            raise StorageError(
                f"--artifacts: {mask_text(str(location))} cannot be used"
                f" ({str(exc).splitlines()[0]}), expected an existing bucket; create it, or name"
                " another"
            ) from exc


def _on_s3(location: str) -> Artifacts:
    match = re.fullmatch(r"s3://([^/:@]+)/?([^@]*)", location)
    if match is None:
        raise StorageError(
            f"--artifacts: found {mask_text(location)!r}, expected s3://BUCKET or"
            " s3://BUCKET/PREFIX; pass keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    location = mask_text(location)  # for messages
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
        from optuna.artifacts import Boto3ArtifactStore
    except ImportError as exc:
        raise StorageError(
            f"--artifacts: {location} needs boto3, which is not installed; pip install"
            " 'hpsearch[s3]'"
        ) from exc
    # With boto3's defaults, an address that never answers delays every trial by minutes.
    limits = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_ANSWER_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _TRIES},
    )
    try:
        store = Boto3ArtifactStore(match[1], boto3.client("s3", config=limits))
    except BotoCoreError as exc:
        raise StorageError(
            f"--artifacts: {location} cannot be used ({str(exc).splitlines()[0]}); fix the"
            " AWS settings, or name another location"
        ) from exc
    errors = (OSError, BotoCoreError, ClientError)
    prefixed = _Prefixed(store, match[2].rstrip("/"), missing=_missing())
    return Artifacts(store=prefixed, folder=None, missing=prefixed.missing, errors=errors)


class _Prefixed:
    """A bucket in which all keys begin with a prefix."""

    def __init__(
        self, store: Boto3ArtifactStore, prefix: str, *, missing: tuple[type[Exception], ...]
    ) -> None:
        self._store, self._prefix, self.missing = store, prefix, missing

    def check(self) -> None:
        """Raises an error of the client if the bucket cannot be reached."""
        self._store.client.head_bucket(Bucket=self._store.bucket)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        try:
            return self._store.open_reader(self._key(artifact_id))
        except self.missing as exc:  # Optuna raises it for a missing bucket, too
            cause = exc.__cause__
            if cause is not None and "NoSuchBucket" in str(cause):
                raise cause from exc
            raise

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self._store.write(self._key(artifact_id), content_body)

    def remove(self, artifact_id: str) -> None:
        self._store.remove(self._key(artifact_id))

    def keys(self, prefix: str) -> list[str]:
        """Returns the keys with that prefix, without the prefix of the store."""
        pages = self._store.client.get_paginator("list_objects_v2")
        whole = self._key(prefix)
        keys = pages.paginate(Bucket=self._store.bucket, Prefix=whole).search("Contents[].Key")
        return [f"{prefix}{key.removeprefix(whole)}" for key in keys if key is not None]

    def _key(self, artifact_id: str) -> str:
        return f"{self._prefix}/{artifact_id}".lstrip("/")


def checkpoint_key(created: datetime, number: int) -> str:
    """Returns the key of a trial's checkpoint, made of the time when its study was created.

    Several databases may share the location, and an SQLite file reuses the ids of deleted studies.

    >>> checkpoint_key(datetime(2030, 1, 2, 3, 4, 5, 678), 9)
    'study-20300102T030405.000678-trial-9.pt'
    """
    return f"{checkpoint_prefix(created)}{number}.pt"


def checkpoint_prefix(created: datetime) -> str:
    """Returns the common prefix of the keys of a study's checkpoints."""
    return f"study-{created:%Y%m%dT%H%M%S.%f}-trial-"


def remove_orphaned(
    artifacts: Artifacts, created: datetime, records: Callable[[], Sequence[TrialRecord]]
) -> None:
    """Removes the checkpoints of ended trials; calls ``records`` only if there are checkpoints.

    A worker may be killed between a trial's end and the removal, or write a checkpoint after its
    trial has ended elsewhere.
    """
    kept = set(artifacts.keys(checkpoint_prefix(created)))
    if not kept:
        return
    going_on = (State.RUNNING, State.WAITING)
    ended = (checkpoint_key(created, r.number) for r in records() if r.state not in going_on)
    for key in kept.intersection(ended):
        artifacts.remove(key)
