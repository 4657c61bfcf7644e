"""One trial from lease to outcome, trained for real on the 8×8 digits."""

import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hpsearch.core.pruning import Rule
from hpsearch.core.space import default_space
from hpsearch.core.spec import DataSpec, RecipeSpec, SearchSpec, ShapeSpec, StudySpec
from hpsearch.core.trial import Interrupted, Outcome, State
from hpsearch.nn.data.dataset import load
from hpsearch.nn.data.tensors import tensors_of
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import create_or_resume
from hpsearch.search.study.leases import process_identity
from hpsearch.search.worker.bounds import objective_bounds
from hpsearch.search.worker.trainer import Trainer
from hpsearch.search.worker.work_loop import StopSignal

CPU = torch.device("cpu")
ORIGIN = {"process": process_identity(), "device": "cpu", "processor": "test", "threads": 1}


class Silent:
    """An observer that only remembers."""

    def __init__(self):
        self.heard = []

    def started(self, number, params, cost):
        self.heard.append("started")

    def trained(self, number, epoch):
        self.heard.append(epoch.epoch)

    def ended(self, record):
        self.heard.append(record.state.value)

    def sync(self, records):
        self.seen = [record.state.value for record in records]


def few_digits(train, val):
    """That many real digits of 8×8 pixels."""
    data = load(DataSpec(dataset="digits"))
    split = replace(data.split, train=data.split.train[:train], val=data.split.val[:val])
    return tensors_of(replace(data, split=split), device=CPU)


@pytest.fixture(scope="module")
def images():
    return few_digits(300, 100)


def make(tmp_path, images, *, space=None, pruner="none", control=0.0, epochs=2, **search):
    fixed = {
        "n_blocks": 1,
        "base_width": 8,
        "growth": 1.0,
        "optimizer": "adam",
        "learning_rate": 0.003,
        "batch_size": 64,
        "dropout": 0.0,
        "schedule": "constant",
        "head": "flatten",
        "batch_norm": True,
        "kernel_size": 3,
    }
    spec = StudySpec(
        name="s",
        train=RecipeSpec(epochs=epochs, shift=0),
        search=SearchSpec(trials=20, sampler="random", **search),
        pruning=Rule(pruner=pruner, control=control, min_finished=1),
        space={**default_space("geometric"), **fixed, **(space or {})},
    )
    return begin(tmp_path, images, spec)


def begin(tmp_path, images, spec):
    """A study of that spec, the trainer of its trials, and its observer."""
    study = create_or_resume(
        open_storage(f"{tmp_path}/s.db", create=True),
        spec,
        data={},
        reference={},
        bounds=lambda: objective_bounds(spec, images, CPU),
    )
    observer = Silent()
    return study, Trainer(study=study, images=images, device=CPU, observer=observer), observer


never = StopSignal()


def test_a_trial_is_trained_measured_and_stored(tmp_path, images):
    names = ("accuracy", "val_loss", "train_seconds", "latency_ms", "params", "flops")
    study, train, observer = make(tmp_path, images, objectives=names)
    lease = study.acquire(ORIGIN)
    record = lease.finish(train(lease, never))
    assert record.state is State.COMPLETE
    assert tuple(record.values) == names
    assert record.values["accuracy"] == record.curve[-1].val_accuracy > 0.2
    assert record.values["val_loss"] == record.curve[-1].val_loss
    assert record.values["train_seconds"] == record.curve[-1].train_seconds > 0
    assert record.values["params"] == 8 * 9 + 2 * 8 + (8 * 4 * 4 + 1) * 10
    assert record.values["flops"] > 2 * 8 * 9 * 64
    assert observer.heard == ["started", 1, 2]
    assert record.attributes["spec"]["model"]["widths"] == [8]
    assert record.seed == lease.spec.seed


@pytest.mark.parametrize("pruner", ["forecast", "none"])
def test_the_observer_of_a_trial_sees_those_of_other_workers(tmp_path, images, pruner):
    study, train, observer = make(tmp_path, images, pruner=pruner)
    elsewhere, here = study.acquire(ORIGIN), study.acquire(ORIGIN)
    elsewhere.finish(Outcome(state=State.PRUNED, reason="elsewhere"))
    train(here, never)
    assert observer.seen == ["pruned", "running"]


def test_a_width_per_block_is_drawn_and_trained(tmp_path, images):
    space = {**default_space("per-block"), "n_blocks": 3, "width_2": 5}
    spec = StudySpec(
        name="s",
        model=ShapeSpec(widths="per-block"),
        train=RecipeSpec(epochs=1, shift=0),
        search=SearchSpec(trials=2, objectives=("accuracy", "flops")),
        space=space,
    )
    study, train, _ = begin(tmp_path, images, spec)
    lease = study.acquire(ORIGIN)
    record = lease.finish(train(lease, never))
    widths = [record.params[f"width_{block}"] for block in (1, 2, 3)]
    assert record.attributes["spec"]["model"]["widths"] == widths
    assert widths[1] == 5
    assert "base_width" not in record.params
    assert set(study.handle.get_trials()[0].params) >= {"width_1", "width_3"}


def test_the_bounds_hold_every_trial_of_the_space(tmp_path, images):
    wide = {"n_blocks": default_space("geometric")["n_blocks"]}
    study, train, _ = make(tmp_path, images, space=wide, objectives=("accuracy", "params"))
    assert study.bounds["accuracy"] == (0.1, 1.0)
    low, high = study.bounds["params"]
    for _ in range(4):
        lease = study.acquire(ORIGIN)
        record = lease.finish(train(lease, never))
        assert low < record.values["params"] < high


def test_a_diverged_trial_is_pruned_with_the_reason(tmp_path, images):
    hot = {"learning_rate": 10.0, "batch_norm": False, "optimizer": "sgd", "momentum": 0.99}
    study, train, _ = make(tmp_path, images, space=hot, epochs=8)
    lease = study.acquire(ORIGIN)
    record = lease.finish(train(lease, never))
    assert record.state is State.PRUNED
    assert record.reason.startswith("diverged: ")
    assert record.attributes["failure"] == {"kind": "NaN"}


def test_a_hopeless_trial_is_pruned_and_the_control_is_not(tmp_path, images):
    spread = {"learning_rate": default_space("geometric")["learning_rate"]}
    ended = {}
    for control in (0.0, 1.0):
        folder = tmp_path / str(control)
        folder.mkdir()
        study, train, _ = make(
            folder,
            images,
            space=spread,
            pruner="margin",
            control=control,
            epochs=3,
            objectives=("accuracy",),
        )
        for _ in range(6):
            lease = study.acquire(ORIGIN)
            lease.finish(train(lease, never))
        ended[control] = study.records()
    pruned = [r for r in ended[0.0] if r.state is State.PRUNED]
    assert pruned
    assert all(r.attributes["pruning"]["epoch"] == len(r.curve) < 3 for r in pruned)
    assert all(r.reason.startswith("loss ") for r in pruned)
    assert all(r.state is State.COMPLETE for r in ended[1.0])
    audited = [r.number for r in ended[1.0] if "would_prune" in r.attributes]
    assert set(audited) >= {r.number for r in pruned}


def test_a_bug_fails_the_trial_with_its_traceback(tmp_path, images, monkeypatch):
    study, train, _ = make(tmp_path, images)
    monkeypatch.setattr("hpsearch.search.worker.trainer.build", lambda *_, **__: 1 / 0)
    lease = study.acquire(ORIGIN)
    record = lease.finish(train(lease, never))
    assert record.state is State.FAILED
    assert record.reason == "bug: ZeroDivisionError: division by zero"
    assert "1 / 0" in record.attributes["failure"]["traceback"]


def test_a_bug_without_a_message_fails_the_trial_and_no_more(tmp_path, images, monkeypatch):
    study, train, _ = make(tmp_path, images)

    def broken(*_, **__):
        raise AssertionError

    monkeypatch.setattr("hpsearch.search.worker.trainer.measure_costs", broken)
    lease = study.acquire(ORIGIN)
    record = lease.finish(train(lease, never))
    assert record.state is State.FAILED
    assert record.reason == "bug: AssertionError: no message"
    assert "in broken" in record.attributes["failure"]["traceback"]


def test_a_wish_to_stop_interrupts_and_nothing_is_recorded_as_failed(tmp_path, images):
    study, train, _ = make(tmp_path, images)
    lease = study.acquire(ORIGIN)
    with pytest.raises(Interrupted):
        train(lease, StopSignal(signals=[2]))
    handed_back = lease.hand_back()
    assert handed_back.state is State.WAITING
    assert len(handed_back.curve) == 1  # the epoch at hand was finished


def _search_with_little_memory(folder, results):
    import resource

    few = few_digits(256, 50)
    study, train, _ = make(folder, few, space={"base_width": 4, "batch_size": 64})
    lease = study.acquire(ORIGIN)
    results.put(lease.finish(train(lease, never)).state)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20, resource.RLIM_INFINITY))
    wide = {"base_width": 4096, "batch_size": 256}
    folder = folder / "wide"
    folder.mkdir()
    study, train, _ = make(folder, few, space=wide, objectives=("accuracy",))
    object.__setattr__(study.spec.model, "max_width", 4096)
    lease = study.acquire(ORIGIN)
    record = lease.finish(train(lease, never))
    results.put((record.state, record.reason))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by RLIMIT_AS")
def test_running_out_of_memory_fails_the_trial_with_the_reason(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    process = spawn.Process(target=_search_with_little_memory, args=(tmp_path, results))
    process.start()
    assert results.get(timeout=600) is State.COMPLETE
    state, reason = results.get(timeout=600)
    process.join(600)
    assert state is State.FAILED
    assert reason.startswith("out of memory: ")


def test_a_trial_whose_checkpoint_is_gone_starts_over_and_says_so(tmp_path, images, caplog):
    """Keeps the promise "If no checkpoint can be used …" of docs/workers.md."""
    study, train, observer = make(tmp_path, images)
    first = study.acquire(ORIGIN)
    asked = StopSignal(signals=[2])
    with pytest.raises(Interrupted):
        train(first, asked)
    first.hand_back()
    (checkpoint,) = study.storage.artifacts.folder.iterdir()
    checkpoint.unlink()
    caplog.set_level("INFO", logger="hpsearch")

    record = (again := study.acquire(ORIGIN)).finish(train(again, never))

    assert "trial 0 starts over: no checkpoint of its 1 epochs is available here" in caplog.text
    assert observer.heard == ["started", 1, "started", 1, 2]
    assert [epoch.epoch for epoch in record.curve] == [1, 2]
