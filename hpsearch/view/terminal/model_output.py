"""What the person sees of a model: its training as it goes, how it ends, and predictions."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpsearch.core.analysis.replication import Repeat, Replication, mean_optimism
from hpsearch.core.analysis.study_analysis import as_plain
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.spec import FactorySpec
from hpsearch.core.trial import Epoch, TrialRecord, reached
from hpsearch.search.jobs.confirm import ReplicationProgress, Tell
from hpsearch.search.jobs.retrain import RetrainedModel
from hpsearch.view.format import format_points, format_seconds, format_spread, format_value
from hpsearch.view.model.card import accuracy, apart, interval, net, origin, percent, seeds_text
from hpsearch.view.terminal.trial_tables import EncodingSafe, EncodingSafeTable, knee_mark


def epoch_line(number: int, seeds: int, epoch: Epoch, *, epochs: int) -> RenderableType:
    """Returns how far a training is, in a line."""
    parts = [f"seed {number + 1}/{seeds}"] * (seeds > 1)
    parts.append(f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}")
    parts.append(f"train_loss {epoch.train_loss:.3f}")
    parts.append(f"train_accuracy {format_value('accuracy', epoch.train_accuracy)}")
    if epoch.val_loss == epoch.val_loss:  # NaN where no image was held out
        parts.append(f"val_loss {epoch.val_loss:.3f}")
        parts.append(f"val_accuracy {format_value('accuracy', epoch.val_accuracy)}")
    return EncodingSafe(Text("  ".join([*parts, format_seconds(epoch.wall_seconds)])))


def result(taken: RetrainedModel, *, folder: str) -> RenderableType:
    """Returns what a training ends with: the test score, and what to type next."""
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True, style="dim")
    facts.add_column(overflow="fold")
    scores = taken.scores
    facts.add_row("model", Text(f"{net(taken.trial)}; {origin(taken.plan)}"))
    told = f"{accuracy(scores)} (95 % interval {interval(scores)}, {scores.n:,} images)"
    facts.add_row("test accuracy", Text(told, "bold"))
    if len(taken.seeds) > 1:
        told = f"{seeds_text(taken.accuracies)}; the first is kept, not the best"
        facts.add_row("", Text(told))
    if taken.plan.searched is not None:
        told = f"{percent(taken.plan.searched)} of the validation images, which the search went by"
        facts.add_row("in the search", told)
    if (told_apart := apart(taken)) is not None:
        facts.add_row("", told_apart)
    facts.add_row("calibration", f"off by {100 * scores.calibration_error:.1f} % on average")
    if scores.confused:
        worst = scores.confused[0]
        told = f"{worst.true} taken for {worst.predicted}, {worst.count} of them"
        facts.add_row("most confused", Text(told))
    facts.add_row("written to", Text(folder))
    words = ["hpsearch", "predict", folder]
    if isinstance(taken.trial.model, FactorySpec):
        words += ["--factory", taken.trial.model.factory]
    command = f"  {shlex.join(words)} IMAGES…"
    return EncodingSafe(Group(facts, Text(), Text("next"), Text(command, "bold")))


def prediction_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Returns predictions as a table: file, class and probability, then the runners-up, if any."""
    table = EncodingSafeTable()
    table.add_column("file", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    runners_up = any("top" in row for row in rows)
    if runners_up:
        table.add_column("next", overflow="fold")
    for row in rows:
        others = [f"{o['class']} {100 * o['probability']:.1f} %" for o in row.get("top", ())[1:]]
        cells = [Text(row["file"]), Text(row["class"]), Text(f"{100 * row['probability']:.1f} %")]
        table.add_row(*cells, *([Text(", ".join(others))] if runners_up else []))
    return table


@contextmanager
def showing(log: Console) -> Iterator[Tell]:
    """Shows each training as it ends, and on a terminal how far the one at hand is."""
    with log.status("") as status:

        def tell(where: ReplicationProgress, found: Epoch | Repeat) -> None:
            if isinstance(found, Epoch):
                accuracy = format_value("accuracy", found.val_accuracy)
                status.update(f"{_position(where)}: epoch {found.epoch}, val_accuracy {accuracy}")
            else:
                log.print(_repeat_line(where, found), soft_wrap=True)

        yield tell


def _repeat_line(where: ReplicationProgress, repeat: Repeat) -> RenderableType:
    """What a training came to beside what the search saw, in a line."""
    if repeat.reason is not None:
        return EncodingSafe(Text(f"{_position(where)}: {repeat.reason}"))
    before, told = reached(where.record), []
    for name in ("accuracy", "train_seconds"):
        value = format_value(name, repeat.values[name])
        told.append(f"{name} {value} (searched {format_value(name, before[name])})")
    return EncodingSafe(Text(f"{_position(where)}: {', '.join(told)}"))


def _position(where: ReplicationProgress) -> str:
    number = f"{where.number:>{len(str(where.total))}}/{where.total}"
    return f"{number}  trial {where.record.number} seed {where.repeat_index + 1}/{where.seeds}"


def confirmed_table(
    trials: Sequence[Replication], records: Sequence[TrialRecord], *, objectives: Sequence[str]
) -> RenderableType:
    """Returns what the search saw beside the means of the fresh seeds, cheapest first."""
    table = EncodingSafeTable("trial")
    for name in objectives:
        table.add_column(name, justify="right", no_wrap=True)
        if not OBJECTIVES[name].is_fixed:
            table.add_column("trained again", justify="right", no_wrap=True)
    table.add_column("seeds", justify="right", no_wrap=True)
    table.add_column("")
    for one in trials:
        table.add_row(*_cells(one, records[one.number], objectives))
    parts: list[RenderableType] = [table]
    flattery = mean_optimism(trials)
    if flattery is not None:
        better = "better" if flattery >= 0 else "worse"
        told = f"the search saw accuracy {format_points(abs(flattery))} {better} than these means"
        parts += [Text(), Text(told)]
    return EncodingSafe(Group(*parts))


def _cells(one: Replication, record: TrialRecord, objectives: Sequence[str]) -> list[Text]:
    before, style = reached(record), "bold" if one.is_knee else ""
    cells = [Text(str(one.number), style)]
    for name in objectives:
        cells.append(Text(format_value(name, before[name]), "dim"))
        if not OBJECTIVES[name].is_fixed:
            again = one.spreads.get(name)
            cells.append(Text("-" if again is None else format_spread(name, again), style))
    lost = f", {one.diverged} diverged" * bool(one.diverged)
    cells.append(Text(f"{one.repeats}{lost}"))
    mark = knee_mark(objectives) if one.is_knee else Text("")
    cells.append(mark if one.is_front else Text("dominated", "yellow"))
    return cells


def confirmed_as_plain(
    trials: Sequence[Replication], records: Sequence[TrialRecord]
) -> list[Mapping[str, Any]]:
    """Returns the same as JSON can hold it, with what the search saw as ``searched``."""
    return [{**as_plain(one), "searched": dict(records[one.number].values)} for one in trials]
