"""What each rule saves and loses: recorded curves of unpruned searches, replayed under every rule.

    python tests/benchmarks/bench_pruning.py [--trials 100] [--seeds 3] [--keep curves.json]
    python tests/benchmarks/bench_pruning.py --replay curves.json
    python tests/benchmarks/bench_pruning.py --verify --trials 30

One `hpsearch run --sampler random --pruner none` per seed records the curves. What the random
sampler draws depends on the seed and the trial's number alone, and a training on its spec alone,
so a replay trial by trial through the search's own judge is what a run with that rule would
have trained. ``--verify`` checks this on real runs: it trains once without stopping and once with
each rule named by ``--rules``, on accuracy and parameters (seconds differ from run to run), and
compares where every trial ended with the replay.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arguments import parser_of
from bench_quickstart import search
from environment import describe_environment, print_table

from hpsearch.core.analysis.pruning_stats import savings, study_hypervolume
from hpsearch.core.analysis.study_analysis import as_plain
from hpsearch.core.pruning import PRUNERS
from hpsearch.core.spec import StudySpec, from_json, to_json
from hpsearch.core.trial import Epoch, State, TrialRecord
from hpsearch.search.storage.records import REFERENCE
from hpsearch.search.study.study import Study
from hpsearch.search.worker.trainer import PeerTrials

AIM_SAVED, AIM_KEPT = 0.30, 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The trials of one search, by number, with what it takes to judge and score them."""

    spec: StudySpec
    bounds: Mapping[str, tuple[float, float]]
    records: Sequence[TrialRecord]
    reference: Mapping[str, Any]

    @property
    def objectives(self) -> tuple[str, ...]:
        """The names of what was optimised."""
        return self.spec.search.objectives


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """The study as a running trial sees it: what is asked of a study."""

    spec: StudySpec
    trials: Sequence[TrialRecord]

    @property
    def objectives(self) -> tuple[str, ...]:
        """The names of what is optimised."""
        return self.spec.search.objectives

    def records(self) -> Sequence[TrialRecord]:
        """The trials before this one."""
        return self.trials


def replay(recording: Recording, pruner: str) -> list[TrialRecord]:
    """Returns the trials as one worker would have left them under that rule."""
    rule = dataclasses.replace(recording.spec.pruning, pruner=pruner)
    spec = dataclasses.replace(recording.spec, pruning=rule)
    done: list[TrialRecord] = []
    for record in recording.records:
        done.append(cut_short(record, Past(spec=spec, trials=tuple(done))))
    return done


def cut_short(record: TrialRecord, past: Past) -> TrialRecord:
    """Returns the trial, stopped where the rule stops it; a control trial runs to its end."""
    if record.control:
        return record
    others = PeerTrials(past, record.number)  # type: ignore[arg-type]
    for epoch in range(1, len(record.curve) + 1):
        curve = record.curve[:epoch]
        if others.judge(curve, record.cost) is not None:
            cost = {**record.cost, "train_seconds": curve[-1].train_seconds}
            return dataclasses.replace(
                record, state=State.PRUNED, values={}, curve=curve, cost=cost
            )
    return record


def record_curves(options: Sequence[str], *, pruner: str, seed: int) -> Recording:
    """Runs a search in a folder that is removed afterwards, and returns what it recorded."""
    steering = ["--sampler", "random", "--pruner", pruner, "--seed", str(seed), "--device", "cpu"]
    with tempfile.TemporaryDirectory() as folder:
        study: Study = search([*options, *steering], folder=Path(folder)).study
        records = study.records()
    print(f"seed {seed}, {pruner}: {len(records)} trials recorded", file=sys.stderr)
    return Recording(
        spec=study.spec,
        bounds=study.bounds,
        records=[dataclasses.replace(r, attributes={}) for r in records],
        reference=study.attributes[REFERENCE],
    )


def to_plain(recording: Recording) -> dict[str, Any]:
    """Returns the recording as JSON can hold it."""
    return {
        "spec": to_json(recording.spec),
        "bounds": dict(recording.bounds),
        "reference": dict(recording.reference),
        "records": as_plain(recording.records),
    }


def from_plain(plain: Mapping[str, Any]) -> Recording:
    """Returns the recording that :func:`to_plain` wrote."""
    return Recording(
        spec=from_json(plain["spec"]),
        bounds={name: (low, high) for name, (low, high) in plain["bounds"].items()},
        reference=plain["reference"],
        records=[record_from_plain(record) for record in plain["records"]],
    )


def record_from_plain(plain: Mapping[str, Any]) -> TrialRecord:
    kept = ("number", "values", "params", "cost", "seed", "control", "reason")
    curve = tuple(Epoch(**epoch) for epoch in plain["curve"])
    return TrialRecord(state=State(plain["state"]), curve=curve, **{k: plain[k] for k in kept})


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a rule saved and kept of one recording, against stopping nothing."""

    pruned: int
    saved: float
    kept: float


def score(recording: Recording, pruner: str) -> Score:
    """Replays a recording under a rule.

    Epochs saved are those of the recording that the rule did not train: what a diverged trial
    would have trained after it broke is not counted as saved.
    """
    records = replay(recording, pruner)
    trained = sum(len(record.curve) for record in records)
    recorded = savings(recording.records, epochs=recording.spec.train.epochs).epochs_trained
    full = study_hypervolume(recording.records, recording.bounds)
    kept = study_hypervolume(records, recording.bounds) / full if full else float("nan")
    pruned = sum(record.state is State.PRUNED for record in records)
    return Score(pruned=pruned, saved=1 - trained / recorded, kept=kept)


def rows(recordings: Sequence[Recording], rules: Sequence[str]) -> list[list[str]]:
    """Returns the table: a line for each rule; for each seed and on average what it did."""
    lines = []
    for rule in rules:
        scores = [score(recording, rule) for recording in recordings]
        each = [f"{100 * s.saved:.1f} / {100 * s.kept:.2f} ({s.pruned})" for s in scores]
        saved, kept = spread([s.saved for s in scores]), spread([s.kept for s in scores])
        good = sum(s.saved >= AIM_SAVED and s.kept >= AIM_KEPT for s in scores)
        lines.append([rule, *each, saved, kept, f"{good} of {len(scores)}"])
    return lines


def spread(shares: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(shares):.2f}"
    return f"{mean} ± {100 * statistics.stdev(shares):.2f}" if len(shares) > 1 else mean


def report(recordings: Sequence[Recording], rules: Sequence[str]) -> None:
    first = recordings[0]
    where, epochs = first.reference, first.spec.train.epochs
    print(f"recorded on {where['processor']}, {where['threads']} threads a trial")
    for recording in recordings:
        states = [record.state for record in recording.records]
        control = sum(record.control for record in recording.records)
        print(
            f"seed {recording.spec.search.seed}: {len(states)} trials of {epochs} epochs,"
            f" {states.count(State.PRUNED)} diverged, {states.count(State.FAILED)} failed,"
            f" {control} control; {', '.join(first.objectives)}; hypervolume"
            f" {study_hypervolume(recording.records, recording.bounds):.4f}"
        )
    print(
        f"\nn = {len(recordings)} seeds. Per seed: epochs saved, % / hypervolume kept, % (trials"
        f" pruned or diverged).\nOn average: mean ± deviation. Aim of forecast: saved >="
        f" {100 * AIM_SAVED:.0f} %, kept >= {100 * AIM_KEPT:.0f} %."
    )
    seeds = [f"seed {recording.spec.search.seed}" for recording in recordings]
    header = ["rule", *seeds, "saved, %", "kept, %", "aim met"]
    print_table(header, rows(recordings, rules))


def verify(options: Sequence[str], rules: Sequence[str], *, seed: int) -> bool:
    """Whether real runs end every trial where the replay says; prints a line for each rule."""
    options = [*options, "--objectives", "accuracy,params"]
    full = record_curves(options, pruner="none", seed=seed)
    if "--threads" not in options:  # sums, and so losses, depend on the thread count
        options += ["--threads", str(full.reference["threads"])]
    lines, agrees = [], True
    for rule in rules:
        real = record_curves(options, pruner=rule, seed=seed).records
        differs = differences(replay(full, rule), real)
        pruned = sum(record.state is State.PRUNED for record in real)
        lines.append([rule, *map(str, (len(real), pruned, *differs))])
        agrees = agrees and len(real) == len(full.records) and not any(differs)
    print(f"\nseed {seed}: the replay against real runs, trials that differ")
    header = ["rule", "trials", "pruned", "other draw", "other end", "other loss"]
    print_table(header, lines)
    return agrees


def differences(replayed: Sequence[TrialRecord], real: Sequence[TrialRecord]) -> list[int]:
    """Returns how many trials differ in their draw, in state or epochs, and in any loss."""
    pairs = list(zip(replayed, real, strict=False))
    return [
        sum(a.params != b.params for a, b in pairs),
        sum((a.state, len(a.curve)) != (b.state, len(b.curve)) for a, b in pairs),
        sum([e.val_loss for e in a.curve] != [e.val_loss for e in b.curve] for a, b in pairs),
    ]


def options() -> argparse.Namespace:
    parser = parser_of(__doc__, trials=100, seeds=3, threads=None)
    parser.add_argument("--study-file", type=Path, help="instead of the embedded default")
    parser.add_argument(
        "--rules", nargs="+", choices=PRUNERS, help="default: all; verify: forecast"
    )
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write the recorded curves there")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="read curves, train nothing")
    parser.add_argument("--verify", action="store_true", help="compare the replay with real runs")
    return parser.parse_args()


def record(chosen: argparse.Namespace, options: Sequence[str]) -> dict[str, Any]:
    """Records a search for each seed; returns them and where they ran, as JSON can hold it."""
    environment = describe_environment()
    recordings = [record_curves(options, pruner="none", seed=n) for n in range(chosen.seeds)]
    return {"environment": environment, "recordings": list(map(to_plain, recordings))}


def main() -> None:
    """Records or reads the curves and prints what every rule makes of them."""
    chosen = options()
    command = [str(chosen.study_file)] if chosen.study_file else []
    command += ["--trials", str(chosen.trials)]
    command += ["--threads", str(chosen.threads)] if chosen.threads else []
    if chosen.verify:
        print(describe_environment())
        sys.exit(not verify(command, chosen.rules or ["forecast"], seed=0))
    kept = json.loads(chosen.replay.read_text()) if chosen.replay else record(chosen, command)
    if chosen.keep:
        chosen.keep.write_text(json.dumps(kept))
    print(kept["environment"])
    report(list(map(from_plain, kept["recordings"])), chosen.rules or list(PRUNERS))


if __name__ == "__main__":
    main()
