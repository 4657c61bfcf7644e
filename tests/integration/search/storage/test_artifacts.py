"""Going on from a checkpoint: the same curve as unbroken, and nothing but one's own."""

import dataclasses
import math
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

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


def _copy(source, target):
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


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


ROOT = Path(__file__).parents[4]


def test_no_damaged_checkpoint_is_accepted_and_none_raises():
    """A sample; `python tests/benchmarks/fuzz_checkpoints.py` tries 2,000."""
    command = [sys.executable, ROOT / "tests/benchmarks/fuzz_checkpoints.py", "--n", "60"]
    fuzzed = subprocess.run(command, capture_output=True, text=True)
    assert fuzzed.returncode == 0, fuzzed.stdout + fuzzed.stderr
    assert "60 damaged checkpoints: 0 accepted, 0 raised, 0 without a line" in fuzzed.stdout


@dataclasses.dataclass
class Trained:
    """A net after an epoch; ``keep`` stores that epoch of a trial, and writes its checkpoint."""

    model: torch.nn.Module
    progress: Progress

    def keep(self, study, lease):
        curve = studies.curve_of(lease)[:1]
        lease.write_cost(studies.cost_of(lease))
        lease.write_epoch(curve)
        Checkpointer(study, lease).keep(self.model, self.progress, curve)
        return curve

    def restore(self, study, lease):
        """Returns the net that the trial goes on with, its progress and its curve."""
        fresh = build(MODEL, (1, 8, 8), 10, seed=5)
        return fresh, *Checkpointer(study, lease).restore(fresh, device=CPU)


def said(caplog):
    """The messages for the user; the fake S3 logs every request, too."""
    return [each.getMessage() for each in caplog.records if each.name.startswith("hpsearch.")]


def again(study, lease):
    """The lease of the same trial after it was handed back."""
    lease.hand_back()
    started = study.acquire(studies.origin())
    assert started.number == lease.number
    return started


class TestKeeper:
    @pytest.fixture
    def study(self, sqlite):
        return studies.make_study(sqlite, studies.make_spec(trials=5))

    @pytest.fixture
    def trained(self):
        model = build(MODEL, (1, 8, 8), 10, seed=0)
        return Trained(model, Progress(epoch=1, optimizer={}))

    def test_what_was_kept_is_restored_by_the_same_trial_alone(self, study, trained, caplog):
        lease, other = study.acquire(studies.origin()), study.acquire(studies.origin())
        curve = trained.keep(study, lease)
        assert trained.restore(study, other)[2] == ()
        lease = again(study, lease)

        net, progress, kept = trained.restore(study, lease)

        assert (progress.epoch, kept) == (1, curve)
        for ours, theirs in zip(net.parameters(), trained.model.parameters(), strict=True):
            assert torch.equal(ours, theirs)
        folder = study.storage.artifacts.folder
        (folder / lease.checkpoint_key).rename(folder / other.checkpoint_key)
        assert trained.restore(study, other)[2] == ()
        (line,) = said(caplog)
        assert line.startswith(f"trial {other.number} starts over: study-")
        assert "is of another configuration (do two databases share --artifacts?)" in line

    @pytest.mark.parametrize("change", ["created", "data"])
    def test_another_studys_checkpoint_of_the_same_name_is_left_alone(
        self, study, trained, change, caplog
    ):
        """Keeps the promise "A checkpoint is used only if …" of docs/workers.md."""
        lease = study.acquire(studies.origin())
        trained.keep(study, lease)
        lease = again(study, lease)
        changed = {"created": "2020-01-01T00:00:00+00:00", "data": {**studies.DATA, "content": "x"}}
        study.attributes[f"hpsearch:{change}"] = changed[change]
        assert trained.restore(study, lease)[2] == ()
        assert "is of another configuration" in caplog.text

    @pytest.mark.parametrize("place", ["folder", "s3"])
    @pytest.mark.parametrize("values", ["same", "other"])
    def test_a_copied_databases_checkpoint_is_not_resumed_from(
        self, study, trained, tmp_path, place, values, request, caplog
    ):
        """Before, a restored copy with the same --artifacts went on from weights of other values.

        Its study, trial and seed are the same; the values and the measured epochs are not.

        Keeps the promise "So a damaged one …" of docs/workers.md.
        """
        if place == "s3":
            request.getfixturevalue("s3")
        where = "s3://shared/p" if place == "s3" else str(tmp_path / "artifacts")
        if values == "other":
            for rate in (0.001, 0.01):
                study.enqueue({"learning_rate": rate})
        study.storage.close()
        first = tmp_path / "study.db"
        for name in ("first.db", "copy.db"):
            _copy(first, tmp_path / name)
        both = []
        for name in ("first.db", "copy.db"):
            opened = open_storage(f"{tmp_path}/{name}", create=False, artifacts=where)
            both.append(open_study(opened, "s"))
        if values == "other":  # the copy's first trial is the other one
            with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
                copy.execute(
                    "UPDATE trial_system_attributes SET value_json = "
                    "'{\"learning_rate\": 0.01}' WHERE key = 'fixed_params'"
                )
                copy.commit()
        original, copied = (each.acquire(studies.origin()) for each in both)
        assert (original.number, original.spec.seed) == (copied.number, copied.spec.seed)
        assert original.checkpoint_key == copied.checkpoint_key
        assert (original.params == copied.params) == (values == "same")
        curve = trained.keep(both[0], original)

        assert trained.restore(both[1], copied)[2] == ()

        (line,) = said(caplog)
        reason = "has epochs that this database lacks" if values == "same" else "is of another conf"
        assert f"trial {copied.number} starts over: {copied.checkpoint_key} {reason}" in line
        # An epoch of its own, with seconds of its own, does not make it the copy's either.
        copied.write_cost(studies.cost_of(copied))
        slower = dataclasses.replace(curve[0], wall_seconds=0.2)
        copied.write_epoch((slower,))
        copied = again(both[1], copied)
        assert trained.restore(both[1], copied)[2] == ()
        original = again(both[0], original)
        assert trained.restore(both[0], original)[2] == curve
        for each in both:
            each.storage.close()

    def test_a_net_that_its_factory_builds_differently_now_starts_over(
        self, study, trained, caplog
    ):
        """Loading would copy the weights that fit, then fail the trial as a bug."""
        lease = study.acquire(studies.origin())
        trained.keep(study, lease)
        lease = again(study, lease)
        wider = build(ModelSpec(widths=(4, 16)), (1, 8, 8), 10, seed=5)
        before = {name: value.clone() for name, value in wider.state_dict().items()}

        assert Checkpointer(study, lease).restore(wider, device=CPU)[1] == ()

        assert "does not fit the network that its factory builds now" in caplog.text
        assert all(torch.equal(value, before[name]) for name, value in wider.state_dict().items())

    def test_a_missing_checkpoint_is_one_line(self, study, trained, caplog):
        caplog.set_level("INFO")
        lease = study.acquire(studies.origin())
        assert trained.restore(study, lease)[2] == ()
        assert said(caplog) == []  # nothing is lost
        trained.keep(study, lease)
        study.storage.artifacts.remove(lease.checkpoint_key)
        lease = again(study, lease)
        assert trained.restore(study, lease)[2] == ()
        assert said(caplog) == [
            "trial 0 starts over: no checkpoint of its 1 epochs is available here"
        ]

    def test_two_databases_with_one_place_for_checkpoints_leave_each_other_theirs(
        self, study, trained, tmp_path
    ):
        place = str(study.storage.artifacts.folder)
        second = open_storage(f"{tmp_path}/second.db", create=True, artifacts=place)
        both = [study, studies.make_study(second, study.spec)]
        claims = [each.acquire(studies.origin()) for each in both]
        for each, lease in zip(both, claims, strict=True):
            trained.keep(each, lease)

        for each, lease in zip(both, claims, strict=True):
            resumed = again(each, lease)
            assert len(trained.restore(each, resumed)[2]) == 1
            resumed.finish(studies.simulate(each, resumed))

        assert list(study.storage.artifacts.folder.iterdir()) == []
        second.close()

    def test_it_is_removed_when_the_trial_ends(self, study, trained):
        lease = study.acquire(studies.origin())
        folder = study.storage.artifacts.folder
        trained.keep(study, lease)
        assert [path.name for path in folder.iterdir()] == [study.checkpoint_key(0)]
        lease.finish(dataclasses.replace(studies.simulate(study, lease)))
        assert list(folder.iterdir()) == []

    def test_writing_takes_a_hundredth_of_the_time_at_most(self, study, trained):
        """Keeps the promise "Writing them takes at most 1 % of the time" of docs/workers.md."""
        lease, now, writes = study.acquire(studies.origin()), [0.0], []
        model, progress, curve = trained.model, trained.progress, studies.curve_of(lease)[:1]

        class Slow(Artifacts):
            def save(self, key, content):
                writes.append(now[0])
                now[0] += 0.5

        study.storage.artifacts = Slow(store=None, folder=None)
        keeper = Checkpointer(study, lease, clock=lambda: now[0])
        for _ in range(10_000):
            keeper.keep(model, progress, curve)
            now[0] += 0.25
        assert 0.005 < 0.5 * len(writes) / now[0] <= 0.0105
        keeper.keep(model, progress, curve, now=True)
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

    @pytest.mark.parametrize("planted", ["pipe", "link", "folder"])
    def test_what_others_planted_as_a_checkpoint_is_not_opened(self, tmp_path, planted, caplog):
        """The names are known to all; before, opening a pipe blocked a worker without end."""
        kept = open_artifacts(parse_url(f"{tmp_path}/a.db"), None)
        kept.folder.mkdir()
        (tmp_path / "precious").write_bytes(b"precious")
        (kept.folder / "k.mine.part").write_bytes(b"precious")
        make = {
            "pipe": os.mkfifo,
            "link": lambda path: path.symlink_to(tmp_path / "precious"),
            "folder": lambda path: path.mkdir(),
        }
        make[planted](kept.folder / "k")

        assert kept.read("k") is None
        assert "the checkpoint k cannot be read" in caplog.text
        kept.save("k", b"new")  # replaces it, except for a folder
        assert kept.read("k") == (None if planted == "folder" else b"new")
        kept.remove("k")

        assert (tmp_path / "precious").read_bytes() == b"precious"
        assert (kept.folder / "k.mine.part").read_bytes() == b"precious"

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


@pytest.mark.parametrize("stored", [1, 2, 3])
def test_epochs_are_compared_exactly_in_each_database(storage, tmp_path, stored):
    """A worker may die before or after its checkpoint, and an older backup has fewer epochs."""
    storage.artifacts = open_artifacts(storage.url, str(tmp_path / "checkpoints"))
    study = studies.make_study(storage, studies.make_spec(trials=5))
    lease = study.acquire(studies.origin())
    curve = tuple(
        dataclasses.replace(e, train_loss=e.epoch / 3, val_loss=math.nan, wall_seconds=1e-7 / 3)
        for e in studies.curve_of(lease)
    )
    model = build(MODEL, (1, 8, 8), 10, seed=0)
    lease.write_cost(studies.cost_of(lease))
    Checkpointer(study, lease).keep(model, Progress(epoch=2, optimizer={}), curve[:2])
    lease.write_epoch(curve[:stored])
    lease = again(study, lease)

    progress, kept = Checkpointer(study, lease).restore(model, device=CPU)

    assert (progress.epoch, len(kept)) == (2, 2)


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
