"""Small studies without torch: trials whose curves are computed from their parameters."""

import math
import os
import sqlite3
import time
from contextlib import closing

from hpsearch.core.dimensions import IntDim
from hpsearch.core.pruning import Rule
from hpsearch.core.space import default_space
from hpsearch.core.spec import RecipeSpec, SearchSpec, StudySpec
from hpsearch.core.trial import Epoch, Outcome, State
from hpsearch.search.storage.tables import clock
from hpsearch.search.study.catalog import create_or_resume
from hpsearch.search.study.leases import process_identity
from hpsearch.search.worker.trainer import PeerTrials

EPOCHS = 4
WIDTHS = IntDim(low=8, high=32, log=True)
DATA = {"content": "abc", "train": 10}
REFERENCE = {"device": "cpu", "processor": "test", "threads": 1}
BOUNDS = {
    "accuracy": (0.1, 1.0),
    "val_loss": (0.0, 2.3),
    "train_seconds": (0.1, 100.0),
    "params": (10.0, 1e6),
}


def make_spec(name="s", *, pruner="forecast", space=None, **search):
    search.setdefault("trials", 30)
    return StudySpec(
        name=name,
        train=RecipeSpec(epochs=EPOCHS),
        search=SearchSpec(**search),
        pruning=Rule(pruner=pruner),
        space={**default_space("geometric"), "base_width": WIDTHS, **(space or {})},
    )


def make_study(storage, spec=None, data=DATA, reference=REFERENCE):
    spec = spec or make_spec()
    bounds = {name: BOUNDS[name] for name in spec.search.objectives}
    return create_or_resume(storage, spec, data=data, reference=reference, bounds=lambda: bounds)


def origin():
    return {"process": process_identity(), **REFERENCE}


def database_time(study):
    with study.storage.transaction() as session:
        return clock(session)


def cost_of(lease):
    params = sum(lease.spec.model.widths) * 100.0
    return {"params": params, "flops": params * 10, "latency_ms": params / 1e3}


def curve_of(lease):
    """Larger nets and rates near 0.01 end with a lower loss, known from the parameters alone."""
    away = abs(math.log10(lease.params["learning_rate"]) + 2)
    final = 0.2 + 0.8 * away + 20.0 / sum(lease.spec.model.widths)
    curve = []
    for e in range(1, EPOCHS + 1):
        loss = final * (1 + (1 - e / EPOCHS))
        curve.append(
            Epoch(
                epoch=e,
                train_loss=loss,
                train_accuracy=1 / (1 + loss),
                val_loss=loss,
                val_accuracy=1 / (1 + loss),
                train_seconds=sum(lease.spec.model.widths) / 10,
                wall_seconds=0.1,
            )
        )
    return tuple(curve)


def simulate(study, lease, stop=lambda: False, pause=0.0):
    """Runs a claimed trial as the trainer does, with computed curves instead of training."""

    lease.write_cost(cost_of(lease))
    curve = curve_of(lease)
    cost = cost_of(lease)
    others = PeerTrials(study, lease.number)
    for e in range(1, EPOCHS + 1):
        time.sleep(pause)
        lease.write_epoch(curve[:e])
        verdict = others.judge(curve[:e], cost)
        if verdict and not lease.control:
            return Outcome(state=State.PRUNED, reason="hopeless")
    last = curve[-1]
    values = {**cost, "accuracy": last.val_accuracy, "val_loss": last.val_loss}
    values["train_seconds"] = last.train_seconds
    return Outcome(state=State.COMPLETE, values={name: values[name] for name in study.objectives})


def search(study, *, at_most=10**6):
    """Runs trials until the study gives no more; returns the standing that ended it."""
    for _ in range(at_most):
        lease = study.acquire(origin())
        if not hasattr(lease, "spec"):
            return lease
        lease.finish(simulate(study, lease))
    return None


def work_in_process(url, name, go):
    """The main function of a test's worker process; prints nothing, ends when the study is done.

    It stands still in its first trial until the file ``go`` is there.
    """
    from hpsearch.search.storage.records import StudyStatus
    from hpsearch.search.storage.storage import open_storage
    from hpsearch.search.study.catalog import open_study

    study = open_study(open_storage(url, create=True), name)
    while True:
        lease = study.acquire(origin())
        if lease is StudyStatus.BUSY:
            time.sleep(0.05)
            continue
        if isinstance(lease, StudyStatus):
            os._exit(0)
        while not os.path.exists(go):
            time.sleep(0.01)
        lease.finish(simulate(study, lease, pause=0.005))


def dump(database):
    """All that a database holds, as SQL."""
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())
