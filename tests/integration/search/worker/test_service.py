"""A worker that goes from study to study: which studies it skips, and when it tries them again."""

import contextlib
import dataclasses
import shutil
import sys
from dataclasses import replace

import pytest

from hpsearch.config import read_spec
from hpsearch.search.storage.records import StudyStatus
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import open_study
from hpsearch.search.worker import launch, service
from hpsearch.search.worker.work_loop import StopSignal
from hpsearch.util.messages import messages_to

STUDY = """
[data]
dataset = "{npz}"
[train]
epochs = 2
function = "flaky:train"
[search]
trials = 1
max_failures = 1
[space]
n_blocks = 1
base_width = 4
batch_size = 64
"""
FLAKY = """
from pathlib import Path

from hpsearch.nn.training.loop import epochs


def train(model, data, spec, *, params, device, stop, progress):
    if spec.epochs > 1 and Path("broken").exists():  # and it is no rehearsal
        raise ValueError("it is broken")
    yield from epochs(model, data, spec, device=device, stop=stop, progress=progress)
"""


class Ended:
    """An observer that asks the worker to stop when a trial is complete."""

    def __init__(self, stop):
        self.stop = stop

    def ended(self, record):
        if record.state.counts:
            self.stop.signals.append(15)

    def __getattr__(self, _):
        return lambda *_: None


@pytest.fixture
def place(tmp_path, digits_npz, monkeypatch, one_thread):
    """A folder with a study that is queued, and its images and training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "flaky", raising=False)
    shutil.copy(digits_npz, tmp_path / "digits.npz")
    (tmp_path / "flaky.py").write_text(FLAKY)
    (tmp_path / "study.toml").write_text(STUDY.format(npz=tmp_path / "digits.npz"))
    place = launch.WorkerOptions(
        storage=f"{tmp_path}/a.db", device="cpu", threads=1, allow_code=True
    )
    submit(place)
    return place


def submit(place):
    from pathlib import Path

    launch.submit(read_spec(Path("study.toml"), {}), place)


def work_on(place, notify, **options):
    stop = StopSignal()
    stop.start_clock(60)  # ends a test that fails to stop it
    with messages_to(notify):
        return service.serve(
            place,
            name=None,
            dataset=None,
            stop=stop,
            view=lambda _: contextlib.nullcontext(Ended(stop)),
            **options,
        )


def complete(place):
    opened = open_storage(place.storage, create=False)
    with contextlib.closing(opened):
        return open_study(opened).summary().complete


def test_images_that_come_late_are_found_by_a_worker_that_waits(place, tmp_path, monkeypatch):
    """Keeps the promise "`worker --forever` skips a study …" of docs/workers.md."""
    monkeypatch.setattr(service, "_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(service, "_WAIT_SECONDS", 0.1)
    (tmp_path / "digits.npz").rename(tmp_path / "later.npz")
    lines = []

    def notify(line):
        lines.append(line)
        if len(lines) == 1:  # the next try logs nothing
            looks = iter(range(3))
            monkeypatch.setattr(launch, "attach_worker", lambda *a, **k: look(looks, *a, **k))

    join = launch.attach_worker

    def look(looks, *arguments, **options):
        if next(looks, None) is None and (tmp_path / "later.npz").exists():
            (tmp_path / "later.npz").rename(tmp_path / "digits.npz")
        return join(*arguments, **options)

    assert work_on(place, notify, forever=True) is StudyStatus.INTERRUPTED
    assert [line for line in lines if "skipping study" in line] == lines[:1]
    assert complete(place) == 1


def test_a_study_that_failures_ended_is_taken_up_when_it_is_queued_again(
    place, tmp_path, monkeypatch
):
    monkeypatch.setattr(service, "_RETRY_SECONDS", 0.1)
    (tmp_path / "broken").touch()
    lines = []

    def notify(line):
        lines.append(line)
        if "failed in a row" in line:
            (tmp_path / "broken").unlink()
            submit(place)

    assert work_on(place, notify, forever=True) is StudyStatus.INTERRUPTED
    assert "trials failed in a row, the last one, trial 0, with bug: flaky:train" in lines[-1]
    assert complete(place) == 1


def test_code_that_is_not_allowed_is_skipped_with_one_line_and_the_next_study_is_run(
    place, tmp_path, monkeypatch
):
    monkeypatch.setattr(service, "_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(service, "_WAIT_SECONDS", 0.1)
    plain = STUDY.replace('function = "flaky:train"\n', "").format(npz=tmp_path / "digits.npz")
    (tmp_path / "plain.toml").write_text(plain)
    sys.modules.pop("flaky", None)
    launch.submit(read_spec(tmp_path / "plain.toml", {}), place)
    lines = []

    work_on(replace(place, allow_code=False), lines.append, forever=True)

    skipped = [line for line in lines if "skipping" in line]
    assert len(skipped) == 1
    assert (
        "skipping study 'study': the database says to import and run train.function" in skipped[0]
    )
    assert "'flaky:train'" in skipped[0]
    assert "--allow-code" in skipped[0]
    assert "flaky" not in sys.modules
    with contextlib.closing(open_storage(place.storage, create=False)) as opened:
        done = {name: open_study(opened, name).summary().complete for name in ("study", "plain")}
    assert done == {"study": 0, "plain": 1}


def test_a_worker_that_skips_every_study_does_not_log_that_none_is_open(place, tmp_path):
    (tmp_path / "digits.npz").unlink()
    lines = []
    assert work_on(place, lines.append, forever=False) is StudyStatus.DONE
    assert lines[0].startswith("skipping study 'study': ")
    assert lines[1:] == ["no other study is open in sqlite:///" + place.storage]


def test_a_study_of_other_hardware_is_tried_once(place, monkeypatch):
    """Keeps the promise "It skips studies of other hardware permanently" of docs/workers.md."""
    monkeypatch.setattr(service, "_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(service, "_WAIT_SECONDS", 0.05)
    with contextlib.closing(open_storage(place.storage, create=False)) as opened:
        study = open_study(opened)
        launch.attach_worker(study, place, dataset=None)  # its seconds are those of one thread
    tries, lines, join = [], [], launch.attach_worker

    def attach(*arguments, **options):
        tries.append(options)
        return join(*arguments, **options)

    monkeypatch.setattr(launch, "attach_worker", attach)
    stop = StopSignal()
    looks = iter(range(5))

    def look():
        if next(looks, None) is None:
            stop.signals.append(15)

    monkeypatch.setattr(service, "touch_alive_file", look)
    other = dataclasses.replace(place, threads=2)
    with messages_to(lines.append):
        service.serve(
            other, name=None, forever=True, dataset=None, stop=stop, view=contextlib.nullcontext
        )

    assert len(tries) == 1
    assert len(lines) == 1
    assert "--mixed-hardware" in lines[0]
