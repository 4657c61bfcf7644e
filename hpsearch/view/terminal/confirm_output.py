"""What the person sees of a confirmation: each training as it ends, and what the front comes to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from hpsearch.core.analysis.replication import Repeat, Replication, mean_optimism
from hpsearch.core.analysis.study_analysis import as_plain
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.trial import Epoch, TrialRecord, reached
from hpsearch.search.jobs.confirm import ReplicationProgress, Tell
from hpsearch.view.format import format_spread, format_value
from hpsearch.view.report.narrative import points
from hpsearch.view.terminal.trial_tables import EncodingSafe, EncodingSafeTable, knee_mark


@contextmanager
def showing(log: Console) -> Iterator[Tell]:
    """Shows each training as it ends, and on a terminal how far the one at hand is."""
    with log.status("") as status:

        def tell(where: ReplicationProgress, found: Epoch | Repeat) -> None:
            if isinstance(found, Epoch):
                accuracy = format_value("accuracy", found.val_accuracy)
                status.update(f"{_place(where)}: epoch {found.epoch}, val_accuracy {accuracy}")
            else:
                log.print(_repeat_line(where, found), soft_wrap=True)

        yield tell


def _repeat_line(where: ReplicationProgress, repeat: Repeat) -> RenderableType:
    """What a training came to beside what the search saw, in a line."""
    if repeat.reason is not None:
        return EncodingSafe(Text(f"{_place(where)}: {repeat.reason}"))
    before, told = reached(where.record), []
    for name in ("accuracy", "train_seconds"):
        value = format_value(name, repeat.values[name])
        told.append(f"{name} {value} (searched {format_value(name, before[name])})")
    return EncodingSafe(Text(f"{_place(where)}: {', '.join(told)}"))


def _place(where: ReplicationProgress) -> str:
    number = f"{where.number:>{len(str(where.total))}}/{where.total}"
    return f"{number}  trial {where.record.number} seed {where.place + 1}/{where.seeds}"


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
        told = f"the search saw accuracy {points(abs(flattery))} {better} than these means"
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
