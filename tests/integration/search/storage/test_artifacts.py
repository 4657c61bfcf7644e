"""Going on from a checkpoint: the same curve as unbroken, and nothing but one's own."""

import dataclasses
import os
import secrets
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from hpsearch.core.spec import ModelSpec, TrainSpec
from hpsearch.core.trial import State
from hpsearch.errors import StorageError
from hpsearch.nn.data.tensors import tensors
from hpsearch.nn.models import build
from hpsearch.nn.training.checkpoint import pack, unpack
from hpsearch.nn.training.loop import Progress, epochs
from hpsearch.search.storage import artifacts as artifacts_module
from hpsearch.search.storage.artifacts import Artifacts, open_artifacts
from hpsearch.search.storage.records import StudyStatus
from hpsearch.search.storage.storage import check_storage, open_storage
from hpsearch.search.storage.url import parse_url
from hpsearch.search.study.catalog import delete, open_study
from hpsearch.search.worker.trainer import Checkpointer
from tests.integration import studies
from tests.servers import own_s3

CPU = torch.device("cpu")
KILLED_WRITER = """
import os, signal, sys
from hpsearch.search.storage.artifacts import open_artifacts
from hpsearch.search.storage.url import parse_url

# when all is written, and before it has its name
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
open_artifacts(parse_url(sys.argv[1]), None).save("k", b"half")
"""
MODEL = ModelSpec(widths=(4, 8), dropout=0.2)


@pytest.fixture
def images(digits):
    drawn, labels = digits
    import numpy as np

    order = np.random.default_rng(0).permutation(len(drawn))
    return tensors(
        drawn[..., None], labels, order[:200], order[200:],
        mean=(0.3,), std=(0.3,), classes=10, device=CPU,
    )  # fmt: skip


def scores(curve):
    return [(e.epoch, e.train_loss, e.val_loss, e.val_accuracy) for e in curve]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_a_training_that_goes_on_has_the_curve_of_an_unbroken_one(images, optimizer):
    spec = TrainSpec(
        epochs=4, batch_size=32, optimizer=optimizer, learning_rate=3e-3, momentum=0.9,
        schedule="one-cycle", shift=1, seed=3,
    )  # fmt: skip

    def start():
        return build(MODEL, images.input_shape, 10, seed=1)

    unbroken = tuple(epochs(start(), images, spec, device=CPU))
    model, progress, curve = start(), Progress(), ()
    for epoch in epochs(model, images, spec, device=CPU, progress=progress):
        curve = (*curve, epoch)
        if epoch.epoch == 2:
            break
    packed = pack(model, progress, curve, owner="me")

    found = unpack(packed, device=CPU)
    other = build(MODEL, images.input_shape, 10, seed=99)
    other.load_state_dict(found.weights)
    rest = tuple(epochs(other, images, spec, device=CPU, progress=found.progress))

    assert found.owner == "me"
    assert found.curve == curve
    assert scores((*found.curve, *rest)) == scores(unbroken)
    assert len(found.progress.step_seconds) == 4 * (200 // 32)


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", "cut short"])
def test_a_damaged_checkpoint_is_no_checkpoint(damage):
    model = build(MODEL, (1, 8, 8), 10, seed=0)
    packed = pack(model, Progress(), (), owner="me")
    assert unpack(packed, device=CPU) is not None
    assert unpack(packed[:-400] if damage == "cut short" else damage, device=CPU) is None


class TestKeeper:
    @pytest.fixture
    def study(self, sqlite):
        return studies.make_study(sqlite, studies.make_spec(trials=5))

    @pytest.fixture
    def trained(self):
        model = build(MODEL, (1, 8, 8), 10, seed=0)
        return model, Progress(epoch=1, optimizer={}), studies.curve_of

    def test_what_was_kept_is_restored_by_the_same_trial_alone(self, study, trained):
        model, progress, curve_of = trained
        lease, other = study.acquire(studies.origin()), study.acquire(studies.origin())
        Checkpointer(study, lease).keep(model, progress, curve_of(lease)[:1])
        fresh = build(MODEL, (1, 8, 8), 10, seed=5)

        assert Checkpointer(study, other).restore(fresh, device=CPU)[1] == ()
        restored = Checkpointer(study, lease).restore(fresh, device=CPU)

        assert (restored[0].epoch, restored[1]) == (1, curve_of(lease)[:1])
        for ours, theirs in zip(fresh.parameters(), model.parameters(), strict=True):
            assert torch.equal(ours, theirs)

    def test_another_studys_checkpoint_of_the_same_name_is_left_alone(self, study, trained):
        model, progress, curve_of = trained
        lease = study.acquire(studies.origin())
        folder = study.storage.artifacts.folder
        Checkpointer(study, lease).keep(model, progress, curve_of(lease)[:1])
        (ours,) = folder.iterdir()
        study.attributes["hpsearch:created"] = "2020-01-01T00:00:00+00:00"
        ours.rename(folder / study.checkpoint_key(lease.number))
        assert Checkpointer(study, lease).restore(model, device=CPU)[1] == ()

    def test_two_databases_with_one_place_for_checkpoints_leave_each_other_theirs(
        self, study, trained, tmp_path
    ):
        model, progress, curve_of = trained
        place = str(study.storage.artifacts.folder)
        second = open_storage(f"{tmp_path}/second.db", create=True, artifacts=place)
        both = [study, studies.make_study(second, study.spec)]
        claims = [each.acquire(studies.origin()) for each in both]
        for each, lease in zip(both, claims, strict=True):
            Checkpointer(each, lease).keep(model, progress, curve_of(lease)[:1])

        for each, lease in zip(both, claims, strict=True):
            assert len(Checkpointer(each, lease).restore(model, device=CPU)[1]) == 1
            lease.finish(studies.simulate(each, lease))

        assert list(study.storage.artifacts.folder.iterdir()) == []
        second.close()

    def test_it_is_removed_when_the_trial_ends(self, study, trained):
        model, progress, curve_of = trained
        lease = study.acquire(studies.origin())
        folder = study.storage.artifacts.folder
        Checkpointer(study, lease).keep(model, progress, curve_of(lease)[:1])
        assert [path.name for path in folder.iterdir()] == [study.checkpoint_key(0)]
        lease.finish(dataclasses.replace(studies.simulate(study, lease)))
        assert list(folder.iterdir()) == []

    def test_writing_takes_a_hundredth_of_the_time_at_most(self, study, trained):
        """Keeps the promise "Writing them takes at most 1 % of the time" of docs/workers.md."""
        model, progress, curve_of = trained
        lease, now, writes = study.acquire(studies.origin()), [0.0], []

        class Slow(Artifacts):
            def save(self, key, content):
                writes.append(now[0])
                now[0] += 0.5

        study.storage.artifacts = Slow(store=None, folder=None)
        keeper = Checkpointer(study, lease, clock=lambda: now[0])
        for _ in range(10_000):
            keeper.keep(model, progress, curve_of(lease)[:1])
            now[0] += 0.25
        assert 0.005 < 0.5 * len(writes) / now[0] <= 0.0105
        keeper.keep(model, progress, curve_of(lease)[:1], now=True)
        assert writes[-1] == now[0] - 0.5


class TestArtifacts:
    def test_a_file_is_there_whole_or_as_it_was(self, tmp_path, monkeypatch, caplog):
        kept = open_artifacts(parse_url(f"{tmp_path}/a.db"), None)
        kept.save("k", b"old")

        def no_room(*_):
            raise OSError("no space left")

        monkeypatch.setattr(os, "replace", no_room)
        kept.save("k", b"new")  # a full disk costs the checkpoint, not the trial
        assert kept.read("k") == b"old"
        assert "k was not written: no space left" in caplog.text

    def test_a_full_disk_is_not_filled_by_what_did_not_fit(self, tmp_path, monkeypatch, caplog):
        """The database lies on it, too: it would be lost in mid-run for want of the same room."""
        monkeypatch.setattr(secrets, "token_hex", lambda _: "0" * 16)
        kept = open_artifacts(parse_url(f"{tmp_path}/a.db"), None)
        kept.save("k", b"old")
        (kept.folder / f"k.{'0' * 16}.part").symlink_to("/dev/full")
        kept.save("k", b"new" * 100_000)
        assert "k was not written: [Errno 28]" in caplog.text
        assert [path.name for path in kept.folder.iterdir()] == ["k"]
        assert kept.read("k") == b"old"

    def test_they_lie_beside_an_sqlite_file_and_nowhere_for_a_server(self, tmp_path):
        """Keeps the promise "They are stored beside an SQLite file …" of docs/workers.md."""
        assert open_artifacts(parse_url(f"{tmp_path}/a.db"), None).folder == (
            tmp_path / "a.db.artifacts"
        )
        assert open_artifacts(parse_url("postgresql://h/d"), None) is None
        assert open_artifacts(parse_url("postgresql://h/d"), str(tmp_path)).folder == tmp_path

    def test_a_missing_file_is_none_and_can_be_removed(self, tmp_path):
        kept = open_artifacts(parse_url(f"{tmp_path}/a.db"), None)
        assert kept.read("k") is None
        kept.remove("k")

    def test_what_a_killed_writer_has_left_goes_with_the_file(self, tmp_path):
        kept = open_artifacts(parse_url(f"{tmp_path}/a.db"), None)
        kept.save("other", b"kept")
        killed = subprocess.run([sys.executable, "-c", KILLED_WRITER, f"{tmp_path}/a.db"])
        assert killed.returncode == -signal.SIGKILL
        (left,) = set(kept.folder.iterdir()) - {kept.folder / "other"}
        assert left.read_bytes() == b"half"
        assert kept.read("k") is None
        kept.remove("k")
        assert [path.name for path in kept.folder.iterdir()] == ["other"]


def test_a_failed_trial_keeps_no_checkpoint_either(sqlite):
    from hpsearch.core.trial import Outcome

    study = studies.make_study(sqlite)
    lease = study.acquire(studies.origin())
    Checkpointer(study, lease).keep(build(MODEL, (1, 8, 8), 10, seed=0), Progress(), ())
    lease.finish(Outcome(state=State.FAILED, reason="bug: x"))
    assert list(study.storage.artifacts.folder.iterdir()) == []


def test_a_lost_trials_checkpoint_is_removed_after_the_lock_is_let_go(sqlite):
    """Removing from an unreachable place takes minutes, in which no worker would get a trial."""
    from filelock import FileLock

    from tests.integration.search.study.test_leases import ELSEWHERE, fall_silent

    removed = []

    class Away(Artifacts):
        def remove(self, key):
            with FileLock(f"{sqlite.url.database}.lock", timeout=0):
                removed.append((key, open_study(sqlite).record(0).state))

    study = studies.make_study(sqlite)
    sqlite.artifacts = Away(store=None, folder=None)
    for _ in range(3):
        fall_silent(study, study.acquire(ELSEWHERE))
    study.reap()
    assert removed == [(study.checkpoint_key(0), State.FAILED)]


@pytest.fixture
def s3(monkeypatch):
    """An S3 of the test's own with an empty bucket "shared"; gives a client of it."""
    with own_s3(monkeypatch) as client:
        client.create_bucket(Bucket="shared")
        yield client


def listed(client):
    return [entry["Key"] for entry in client.list_objects_v2(Bucket="shared").get("Contents", ())]


def test_artifacts_on_s3_are_written_read_listed_and_removed(s3):
    """Keeps the promise "They are stored beside an SQLite file …" of docs/workers.md."""
    kept = open_artifacts(parse_url("postgresql://h/d"), "s3://shared/a/b/")
    kept.save("k-1", b"one")
    kept.save("k-1", b"two")
    kept.save("other", b"three")
    assert listed(s3) == ["a/b/k-1", "a/b/other"]
    assert kept.keys("k-") == ["k-1"]
    assert kept.keys("none") == []
    assert kept.read("k-1") == b"two"
    kept.remove("k-1")
    assert kept.read("k-1") is None
    kept.remove("k-1")


def test_a_missing_bucket_is_refused_before_a_run_and_logged_during_it(s3, tmp_path, caplog):
    with pytest.raises(StorageError, match=r"s3://nowhere/a cannot be used .*create it, or name"):
        check_storage(f"{tmp_path}/a.db", artifacts="s3://nowhere/a")
    check_storage(f"{tmp_path}/a.db", artifacts="s3://shared/a")
    kept = open_artifacts(parse_url("postgresql://h/d"), "s3://nowhere/a")
    assert kept.read("k") is None
    assert "k cannot be read" in caplog.text
    assert "NoSuchBucket" in caplog.text


def test_an_s3_that_never_answers_costs_seconds(s3, monkeypatch, caplog):
    monkeypatch.setattr(artifacts_module, "_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, and never answers
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        kept = open_artifacts(parse_url("postgresql://h/d"), "s3://shared/a")
        began = time.monotonic()
        assert kept.read("k") is None
        kept.save("k", b"one")
    assert time.monotonic() - began < 60  # by default each takes 180
    assert "k cannot be read: Read timeout" in caplog.text
    assert "k was not written: Read timeout" in caplog.text


def test_a_bad_aws_profile_is_one_line_and_only_where_checkpoints_are_needed(sqlite, monkeypatch):
    pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    studies.make_study(sqlite)
    reader = open_storage(str(sqlite.url.database), create=False, artifacts="s3://shared/a")
    study = open_study(reader)
    assert study.summary().complete == 0
    bad = r"s3://shared/a cannot be used .*no-such-profile.*fix the AWS settings"
    for needs_it in (
        lambda: study.acquire(studies.origin()),
        lambda: delete(reader, study),
        lambda: check_storage(str(sqlite.url.database), artifacts="s3://shared/a"),
    ):
        with pytest.raises(StorageError, match=bad) as caught:
            needs_it()
        assert "\n" not in str(caught.value)
    assert study.records() == []
    reader.close()


@pytest.mark.parametrize("place", ["beside", "s3"])
def test_what_trials_left_that_have_ended_goes_when_a_search_ends(sqlite, request, place):
    """A worker may write after its trial ended elsewhere, or be killed before it has removed it."""
    if place == "s3":
        client = request.getfixturevalue("s3")
        sqlite.artifacts = open_artifacts(sqlite.url, "s3://shared/p")
    study = studies.make_study(sqlite, studies.make_spec(trials=12))
    studies.search(study, at_most=11)
    study.acquire(studies.origin()).hand_back()
    artifacts = sqlite.artifacts
    for number in (0, 1, 11):
        artifacts.save(study.checkpoint_key(number), b"late")
    artifacts.save("study-2-trial-0.pt", b"another's")
    if place == "beside":
        (artifacts.folder / f"{study.checkpoint_key(10)}.{'0' * 16}.part").write_bytes(b"half")
    study.request_stop()

    assert study.acquire(studies.origin()) is StudyStatus.STOPPED

    if place == "s3":
        left = {key.removeprefix("p/") for key in listed(client)}
    else:
        left = {path.name for path in artifacts.folder.iterdir()}
    assert left == {study.checkpoint_key(11), "study-2-trial-0.pt"}


@pytest.mark.parametrize("place", ["s3://", "s3:///prefix"])
def test_an_s3_place_without_a_bucket_is_refused(place):
    with pytest.raises(StorageError, match=r"expected s3://BUCKET"):
        open_artifacts(parse_url("postgresql://h/d"), place)
