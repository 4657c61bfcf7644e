"""Where checkpoints lie: a folder beside the database, a shared folder, or S3."""

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
from typing import BinaryIO

from optuna.artifacts import Boto3ArtifactStore, FileSystemArtifactStore
from optuna.artifacts._protocol import ArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy.engine import URL

from hpsearch.core.trial import State, TrialRecord
from hpsearch.errors import StorageError

_CONNECT_SECONDS, _ANSWER_SECONDS, _TRIES = 5.0, 20.0, 2  # that S3 is granted
_DRAFT = re.compile(r"\.[0-9a-f]{16}\.part$")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifacts:
    """A store of files by key, read and written through Optuna's artifact stores.

    Never by ``upload_artifact``, whose rows in the database cannot be removed again.
    ``folder`` is None on S3. ``errors`` are what the store raises when it is full or away: a
    checkpoint that cannot be had costs time, never a trial, so they are told and no more.
    """

    store: ArtifactStore
    folder: Path | None
    errors: tuple[type[Exception], ...] = (OSError,)

    def save(self, key: str, content: bytes) -> None:
        """Writes a file whole: whoever reads it meanwhile gets the old one or the new one."""
        with self._tolerant(f"{key} is not kept"):
            self._save(key, content)

    @contextlib.contextmanager
    def _tolerant(self, consequence: str) -> Iterator[None]:
        try:
            yield
        except self.errors as exc:
            _log.warning("the checkpoint %s: %s", consequence, exc)

    def _save(self, key: str, content: bytes) -> None:
        if self.folder is None:  # an S3 object appears when its upload is complete
            self.store.write(key, io.BytesIO(content))
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = f"{key}.{secrets.token_hex(8)}.part"  # two containers may share a pid
        try:
            self.store.write(draft, io.BytesIO(content))
            os.replace(self.folder / draft, self.folder / key)
        except OSError:  # the last room on the disk may be the database's
            (self.folder / draft).unlink(missing_ok=True)
            raise

    def read(self, key: str) -> bytes | None:
        """Returns a file's content; None if it is not there."""
        with self._tolerant(f"{key} cannot be read"):
            try:
                with self.store.open_reader(key) as file:
                    return file.read()
            except (ArtifactNotFound, FileNotFoundError):
                return None
        return None

    def keys(self, prefix: str) -> list[str]:
        """Returns the keys that begin so, of half-written files that of the whole."""
        with self._tolerant(f"{prefix}… cannot be looked for"):
            if isinstance(self.store, _Prefixed):
                return self.store.keys(prefix)
            found = self.folder.glob(f"{glob.escape(prefix)}*") if self.folder is not None else ()
            return [_DRAFT.sub("", path.name) for path in found]
        return []

    def remove(self, key: str) -> None:
        """Removes a file, if it is there, and what writers of it have left who were killed."""
        not_there = contextlib.suppress(ArtifactNotFound, FileNotFoundError)
        with self._tolerant(f"{key} is left where it is"):
            with not_there:
                self.store.remove(key)
            if self.folder is not None:
                for draft in self.folder.glob(f"{glob.escape(key)}.*.part"):
                    draft.unlink(missing_ok=True)


def open_artifacts(url: URL, location: str | None) -> Artifacts | None:
    """Returns where a study's checkpoints lie; None where there is no location for them.

    Args:
        url: the database.
        location: a folder that every worker sees, or ``s3://BUCKET/PREFIX``; None: beside an SQLite
            file (``<file>.artifacts``), and nowhere for PostgreSQL.

    Raises:
        StorageError: the location cannot be used.
    """
    if location is None:
        if url.get_backend_name() != "sqlite":
            return None
        location = f"{url.database}.artifacts"
    if location.startswith("s3://"):
        return _on_s3(location)
    folder = Path(location)
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        usable = bool(location) and there.is_dir() and os.access(there, os.W_OK)
    except OSError:  # its name is too long, or what lies above it is closed
        usable = False
    if not usable:
        raise StorageError(
            f"--artifacts: {location[:200]!r} is not a folder that can be written; mend it or name"
            " another"
        )
    return Artifacts(store=FileSystemArtifactStore(folder), folder=folder)


def check_artifacts(url: URL, location: str | None) -> None:
    """Checks that a location can be used, as :func:`open_artifacts`, and that a bucket is there.

    Raises:
        StorageError: it cannot, or is not.
    """
    opened = open_artifacts(url, location)
    if opened is None or not isinstance(opened.store, _Prefixed):
        return
    try:
        opened.store.look()
    except opened.errors as exc:
        said = getattr(exc, "response", {}).get("Error", {}).get("Code")
        if said != "403":  # who may read and write objects may be refused the bucket itself
            raise StorageError(
                f"--artifacts: {location} cannot be used ({str(exc).splitlines()[0]}), expected a"
                " bucket that is there; make it, or name another"
            ) from exc


def _on_s3(location: str) -> Artifacts:
    match = re.fullmatch(r"s3://([^/]+)/?(.*)", location)
    if match is None:
        raise StorageError(
            f"--artifacts: found {location!r}, expected s3://BUCKET or s3://BUCKET/PREFIX"
        )
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as exc:
        raise _without_boto3(location) from exc
    # By default a location that swallows what is sent to it holds every trial up for minutes.
    patience = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_ANSWER_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _TRIES},
    )
    try:
        store = Boto3ArtifactStore(match[1], boto3.client("s3", config=patience))
    except BotoCoreError as exc:
        raise StorageError(
            f"--artifacts: {location} cannot be used ({str(exc).splitlines()[0]}); mend AWS's"
            " settings, or name another location"
        ) from exc
    errors = (OSError, BotoCoreError, ClientError)
    return Artifacts(store=_Prefixed(store, match[2].rstrip("/")), folder=None, errors=errors)


def _without_boto3(location: str) -> StorageError:
    return StorageError(
        f"--artifacts: {location} needs boto3, which is not installed; pip install 'hpsearch[s3]'"
    )


class _Prefixed:
    """A bucket in which all keys begin with a prefix."""

    def __init__(self, store: Boto3ArtifactStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix

    def look(self) -> None:
        """Asks for the bucket, no more."""
        self._store.client.head_bucket(Bucket=self._store.bucket)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        try:
            return self._store.open_reader(self._key(artifact_id))
        except ArtifactNotFound as exc:  # Optuna says so of a bucket that is not there, too
            cause = exc.__cause__
            if cause is not None and "NoSuchBucket" in str(cause):
                raise cause from exc
            raise

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self._store.write(self._key(artifact_id), content_body)

    def remove(self, artifact_id: str) -> None:
        self._store.remove(self._key(artifact_id))

    def keys(self, prefix: str) -> list[str]:
        """Returns the keys that begin so, without the store's own prefix."""
        pages = self._store.client.get_paginator("list_objects_v2")
        whole = self._key(prefix)
        found = pages.paginate(Bucket=self._store.bucket, Prefix=whole).search("Contents[].Key")
        return [f"{prefix}{key.removeprefix(whole)}" for key in found if key is not None]

    def _key(self, artifact_id: str) -> str:
        return f"{self._prefix}/{artifact_id}".lstrip("/")


def checkpoint_key(created: datetime, number: int) -> str:
    """Returns the name under which the checkpoint of a study's trial lies among the artifacts.

    By when the study was made: another database may keep its own in the same location, and an id is
    given out anew.

    >>> checkpoint_key(datetime(2030, 1, 2, 3, 4, 5, 678), 9)
    'study-20300102T030405.000678-trial-9.pt'
    """
    return f"{checkpoint_prefix(created)}{number}.pt"


def checkpoint_prefix(created: datetime) -> str:
    """Returns what the names of all of a study's checkpoints begin with."""
    return f"study-{created:%Y%m%dT%H%M%S.%f}-trial-"


def remove_orphaned(
    artifacts: Artifacts, created: datetime, records: Callable[[], Sequence[TrialRecord]]
) -> None:
    """Removes the checkpoints of trials that have ended; ``records`` are asked if there are any.

    A worker may be killed between a trial's end and the removal, or write one after its trial has
    ended elsewhere.
    """
    kept = set(artifacts.keys(checkpoint_prefix(created)))
    if not kept:
        return
    going_on = (State.RUNNING, State.WAITING)
    ended = (checkpoint_key(created, r.number) for r in records() if r.state not in going_on)
    for key in kept.intersection(ended):
        artifacts.remove(key)
