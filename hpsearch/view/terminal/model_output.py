"""Terminal output for models: training progress, test results, predictions, replications."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from hpsearch.core.analysis.statistics import Repeat, Replication, mean_optimism
from hpsearch.core.analysis.study_analysis import as_plain
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.spec import FactorySpec
from hpsearch.core.trial import Epoch, TrialRecord, reached
from hpsearch.errors import plural
from hpsearch.search.jobs.confirm import OnResult, ReplicationProgress
from hpsearch.search.jobs.retrain import RetrainedModel
from hpsearch.view.format import format_points, format_seconds, format_spread, format_value
from hpsearch.view.model.card import accuracy, apart, interval, net, origin, percent, seeds_text
from hpsearch.view.terminal.trial_tables import (
    EncodingSafe,
    EncodingSafeTable,
    facts,
    knee_mark,
    print_line,
)


def epoch_line(number: int, seeds: int, epoch: Epoch, *, epochs: int) -> RenderableType:
    """Returns the progress of a training, one line per epoch."""
    parts = [f"seed {number + 1}/{seeds}"] * (seeds > 1)
    parts.append(f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}")
    parts.append(f"train_loss {epoch.train_loss:.3f}")
    parts.append(f"train_accuracy {format_value('accuracy', epoch.train_accuracy)}")
    if epoch.val_loss == epoch.val_loss:  # NaN where no image was held out
        parts.append(f"val_loss {epoch.val_loss:.3f}")
        parts.append(f"val_accuracy {format_value('accuracy', epoch.val_accuracy)}")
    return EncodingSafe(Text("  ".join([*parts, format_seconds(epoch.wall_seconds)])))


def result(trained: RetrainedModel, *, folder: str) -> RenderableType:
    """Returns the test score of a trained model, and the command to type next."""
    scores, searched = trained.scores, trained.plan.searched
    table = facts()
    table.add_row("model", Text(f"{net(trained.trial)}; {origin(trained.plan)}"))
    text = f"{accuracy(scores)} (95 % interval {interval(scores)}, {scores.n:,} images)"
    table.add_row("test accuracy", Text(text, "bold"))
    if len(trained.seeds) > 1:
        table.add_row("", f"{seeds_text(trained.accuracies)}; the first is kept, not the best")
    if searched is not None:
        text = f"validation accuracy {percent(searched)}; optimistic, as the search selected on it"
        table.add_row("in the search", text)
    if (difference := apart(trained)) is not None:
        table.add_row("", difference)
    table.add_row("calibration error", f"{100 * scores.calibration_error:.1f} %")
    if scores.confused:
        worst = scores.confused[0]
        text = f"{worst.true} → {worst.predicted} ({plural(worst.count, 'image')})"
        table.add_row("most confused", Text(text))
    table.add_row("written to", Text(folder))
    words = ["hpsearch", "predict", folder]
    if isinstance(trained.trial.model, FactorySpec):
        words += ["--factory", trained.trial.model.factory]
    command = f"  {shlex.join(words)} IMAGES…"
    return EncodingSafe(Group(table, Text(), Text("next"), Text(command, "bold")))


def prediction_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Returns predictions as a table: file, class and probability, then the runners-up, if any."""
    table = EncodingSafeTable()
    table.add_column("file", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    runners_up = any("top" in row for row in rows)
    if runners_up:
        table.add_column("runners-up", overflow="fold")
    for row in rows:
        others = [f"{o['class']} {100 * o['probability']:.1f} %" for o in row.get("top", ())[1:]]
        cells = [Text(row["file"]), Text(row["class"]), Text(f"{100 * row['probability']:.1f} %")]
        table.add_row(*cells, *([Text(", ".join(others))] if runners_up else []))
    return table


@contextmanager
def showing(log: Console) -> Iterator[OnResult]:
    """Prints each training as it ends, and on a terminal shows the progress of the current one."""
    with log.status("") as status:

        def show(progress: ReplicationProgress, event: Epoch | Repeat) -> None:
            number = f"{progress.number:>{len(str(progress.total))}}/{progress.total}"
            seed = f"seed {progress.repeat_index + 1}/{progress.seeds}"
            head = f"{number}  trial {progress.record.number} {seed}"
            if isinstance(event, Epoch):
                accuracy = format_value("accuracy", event.val_accuracy)
                status.update(f"{head}: epoch {event.epoch}, val_accuracy {accuracy}")
                return
            parts = [event.reason] if event.reason is not None else []
            for name in () if parts else ("accuracy", "train_seconds"):
                searched = format_value(name, reached(progress.record)[name])
                parts.append(
                    f"{name} {format_value(name, event.values[name])} (searched {searched})"
                )
            print_line(log, f"{head}: {', '.join(parts)}")

        yield show


def confirmed_table(
    trials: Sequence[Replication], records: Sequence[TrialRecord], *, objectives: Sequence[str]
) -> RenderableType:
    """Returns the values of the search beside the means of the fresh seeds, cheapest first."""
    table = EncodingSafeTable("trial")
    for name in objectives:
        table.add_column(name, justify="right", no_wrap=True)
        if not OBJECTIVES[name].is_fixed:
            table.add_column(f"{name}\n(fresh seeds)", justify="right", no_wrap=True)
    table.add_column("seeds", justify="right", no_wrap=True)
    table.add_column("")
    for trial in trials:
        before, style = reached(records[trial.number]), "bold" if trial.is_knee else ""
        cells = [Text(str(trial.number), style)]
        for name in objectives:
            cells.append(Text(format_value(name, before[name]), "dim"))
            if not OBJECTIVES[name].is_fixed:
                again = trial.spreads.get(name)
                cells.append(Text("-" if again is None else format_spread(name, again), style))
        diverged = f", {trial.diverged} diverged" if trial.diverged else ""
        cells.append(Text(f"{trial.repeats}{diverged}"))
        mark = knee_mark(objectives) if trial.is_knee else Text("")
        table.add_row(*cells, mark if trial.is_front else Text("dominated", "yellow"))
    parts: list[RenderableType] = [table]
    if (optimism := mean_optimism(trials)) is not None:
        level = "lower" if optimism >= 0 else "higher"
        points = format_points(abs(optimism))
        parts += [Text(), Text(f"on fresh seeds accuracy is {points} {level} than in the search")]
    return EncodingSafe(Group(*parts))


def confirmed_as_plain(
    trials: Sequence[Replication], records: Sequence[TrialRecord]
) -> list[Mapping[str, Any]]:
    """Returns the table for JSON; ``searched`` holds the values of the search."""
    return [{**as_plain(each), "searched": dict(records[each.number].values)} for each in trials]
