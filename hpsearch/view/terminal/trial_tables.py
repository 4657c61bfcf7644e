"""Trials on a terminal: the front, the end of a run, one trial in detail, a rerun.

Print the results with ``soft_wrap=True``: tables still fit the console, and commands to copy stay
on one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from hpsearch.core.analysis.pruning_stats import Savings
from hpsearch.core.trial import Curve, Epoch, State, TrialRecord
from hpsearch.errors import plural
from hpsearch.view.format import (
    describe,
    encodable,
    format_seconds,
    format_value,
    layers,
    own,
    savings_text,
    shape,
    sparkline,
    training,
    unworthy,
    unworthy_text,
)

if TYPE_CHECKING:  # `list` and `status` would load what a rerun needs
    from hpsearch.search.jobs.confirm import Rerun


class EncodingSafe:
    """A renderable in the characters that the encoding of the console has."""

    def __init__(self, inner: RenderableType) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return _encodable(console.render(self.inner, options), options.encoding)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.inner)


class EncodingSafeTable(Table):
    """A table without a frame, in the characters that the encoding of the console has."""

    def __init__(self, *headers: str) -> None:
        super().__init__(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for header in headers:
            self.add_column(header, no_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rendered = super().__rich_console__(console, options)
        return _encodable((s for s in rendered if isinstance(s, Segment)), options.encoding)


def _encodable(segments: Iterable[Segment], encoding: str) -> Iterable[Segment]:
    for segment in segments:
        if segment.control:  # codes of the terminal, not text
            yield segment
        else:
            yield Segment(encodable(segment.text, encoding), segment.style)


def print_line(console: Console, line: Text | str) -> None:
    """Prints a line that is not interpreted, in the characters of the console's encoding."""
    console.print(EncodingSafe(Text(line) if isinstance(line, str) else line), soft_wrap=True)


def facts() -> Table:
    """Returns an empty table of two columns: dim names, and their values, which may wrap."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    return table


KNEE, BEST = "◀ knee", "◀ best"
STYLES = {
    State.COMPLETE: "green",
    State.PRUNED: "yellow",
    State.FAILED: "red",
    State.IMPORTED: "dim",
    State.RUNNING: "cyan",
    State.WAITING: "cyan",
}
_EPOCHS_SHOWN = 24


def front_table(
    chosen: Sequence[TrialRecord], *, objectives: Sequence[str], knee: int | None
) -> Table:
    """Returns the front as a table, in the order given, with the trial numbered ``knee`` marked.

    Two objectives fit in 100 columns, a line per trial; in fewer, the configuration wraps. Trials
    too inaccurate for the knee are dim, and a line below the table says so.
    """
    table = _objectives_table(objectives)
    table.add_column("net")
    table.add_column("training")
    poor = unworthy(chosen)
    if poor:
        table.caption = Text(unworthy_text(poor), "dim", no_wrap=False, overflow="fold")
        table.caption_justify = "left"
    for record in chosen:
        blocks, widths = shape(record)
        parts = (f"{blocks}: {widths}" if blocks else "", layers(record), own(record))
        net = " ".join(part for part in parts if part)
        cells = _objective_cells(record, objectives=objectives, knee=knee)
        style = "dim" if record in poor else None
        table.add_row(*cells, Text(net), Text(training(record)), style=style)
    return table


def titled_front(
    chosen: Sequence[TrialRecord], *, study: str, objectives: Sequence[str], knee: int | None
) -> RenderableType:
    """Returns the front as a table, under the name of the study."""
    table = front_table(chosen, objectives=objectives, knee=knee)
    return EncodingSafe(Group(Text(f"study {study}", "bold"), Text(), table))


def short_front(
    chosen: Sequence[TrialRecord], *, objectives: Sequence[str], knee: int | None, rows: int
) -> Table:
    """Returns the front in at most ``rows`` (1 or more) lines under a header of two.

    A longer front shows its ends, its knee and evenly spaced others.
    """
    table = _objectives_table(objectives)
    table.add_column("configuration")
    knee_at = next((i for i, r in enumerate(chosen) if r.number == knee), 0)
    for i in _spaced(len(chosen), rows, always=knee_at):
        cells = _objective_cells(chosen[i], objectives=objectives, knee=knee)
        table.add_row(*cells, Text(describe(chosen[i]), no_wrap=True, overflow="ellipsis"))
    return table


def _spaced(count: int, places: int, *, always: int) -> list[int]:
    """Returns indices of evenly spaced items, first, last and ``always`` among them."""
    if count <= places:
        return list(range(count))
    if places == 1:
        return [always]
    spaced = [round(i * (count - 1) / (places - 1)) for i in range(places)]
    inner = range(1, places - 1) if 0 < always < count - 1 else range(0)
    if always not in spaced and inner:
        spaced[min(inner, key=lambda i: abs(spaced[i] - always))] = always
    return spaced


def _objectives_table(objectives: Sequence[str]) -> EncodingSafeTable:
    table = EncodingSafeTable("trial", *objectives, "")
    for column in table.columns[:-1]:
        column.justify = "right"
    return table


def _objective_cells(
    record: TrialRecord, *, objectives: Sequence[str], knee: int | None
) -> list[Text]:
    values = [format_value(name, record.values[name]) for name in objectives]
    is_knee = record.number == knee
    style = "bold" if is_knee else ""
    mark = knee_mark(objectives) if is_knee else Text()
    return [Text(str(record.number), style), *(Text(value, style) for value in values), mark]


def knee_mark(objectives: Sequence[str]) -> Text:
    """Returns the mark of the knee, which is the best trial if there is one objective."""
    return Text(KNEE if len(objectives) > 1 else BEST, "bold green")


def end_summary(
    chosen: Sequence[TrialRecord],
    *,
    objectives: Sequence[str],
    knee: int | None,
    hypervolume: float | None,
    saved: Savings,
    commands: Sequence[str],
) -> RenderableType:
    """Returns the end of a run: front, hypervolume, savings of pruning, and the next commands.

    The hypervolume is left out if it is None, or if there is one objective.
    """
    parts: list[RenderableType] = []
    if chosen:
        parts += [front_table(chosen, objectives=objectives, knee=knee), Text()]
    else:
        parts.append(Text("No trial is complete, so there is no front yet."))
    table = facts()
    if hypervolume is not None and len(objectives) > 1:
        table.add_row("hypervolume", f"{hypervolume:.4f} of 1")
    table.add_row("pruning", Text(savings_text(saved)))
    parts.append(table)
    if commands:
        parts += [Text(), Text("next"), *(Text(f"  {command}", "bold") for command in commands)]
    return EncodingSafe(Group(*parts))


def trial_details(record: TrialRecord, *, study: str, objectives: Sequence[str]) -> RenderableType:
    """Returns the state, values, configuration, curve and origin of a trial."""
    parts: list[RenderableType] = [_trial_facts(record, study=study, objectives=objectives)]
    if record.curve:
        parts += [Text(), _curve_table(record.curve)]
        if len(record.curve) > _EPOCHS_SHOWN:
            parts.append(Text(f"{_EPOCHS_SHOWN} of {len(record.curve)} epochs; --json has all"))
    failure = record.attributes.get("failure")
    if isinstance(failure, Mapping) and failure.get("traceback"):
        parts += [Text(), Text(str(failure["traceback"]).rstrip())]
    return EncodingSafe(Group(*parts))


def _trial_facts(record: TrialRecord, *, study: str, objectives: Sequence[str]) -> Table:
    table = facts()
    table.add_row("study", Text(study))
    control = " (control: never pruned)" if record.control else ""
    table.add_row("trial", f"{record.number}{control}")
    table.add_row("state", state_text(record))
    measured = {**record.cost, **record.values}
    for name in dict.fromkeys((*objectives, *measured)):
        if name in measured:
            table.add_row(name, format_value(name, measured[name]))
    if record.params:
        table.add_row("configuration", Text(describe(record)))
        table.add_row("", Text(_plain(record.params)))
    if record.seed is not None:
        table.add_row("seed", str(record.seed))
    if record.started is not None:
        took = ""
        if record.ended is not None:
            seconds = max(0.0, (record.ended - record.started).total_seconds())
            took = f", took {format_seconds(seconds)}"
        table.add_row("when", f"{record.started:%Y-%m-%d %H:%M}{took}")
    # The heartbeats of a training that stands still say so.
    idle = record.attributes.get("idle")
    if record.state is State.RUNNING and isinstance(idle, int | float) and idle:
        table.add_row("progress", f"no step for {format_seconds(idle)}")
    known = record.attributes.get("origin")
    origin = known if isinstance(known, Mapping) else {}
    if isinstance(process := origin.get("process"), Mapping):
        table.add_row("process", Text(f"{process.get('pid')} on {process.get('host')}"))
    if foreign := record.attributes.get("foreign"):
        table.add_row("from elsewhere", Text(_plain(foreign)))
    for name in ("processor", "device", "threads", "versions", "mixed_hardware"):
        if name in origin:
            table.add_row(name, Text(_plain(origin[name])))
    if origin.get("starts", 1) > 1:
        table.add_row("starts", f"{origin['starts']}; the trial was interrupted")
    if record.curve:
        losses = [epoch.val_loss for epoch in record.curve]
        ends = f"{losses[0]:.3f} → {losses[-1]:.3f}"
        table.add_row("val_loss", f"{sparkline(losses[-60:])}  {ends}")
    return table


def state_text(record: TrialRecord) -> Text:
    """Returns the state of a trial, and its reason if that is known."""
    text = Text(record.state.value, STYLES[record.state])
    reason = record.reason or ""
    # Some reasons name the epoch themselves.
    if record.state is State.PRUNED and "epoch" not in reason:
        text.append(f" after epoch {len(record.curve)}", "default")
    if record.state is State.WAITING and record.curve:
        text.append(f": paused after epoch {len(record.curve)}, will resume", "default")
    return text.append(f": {reason}", "default") if reason else text


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _curve_table(curve: Curve) -> Table:
    headers = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "train_seconds")
    table = EncodingSafeTable(*headers)
    for column in table.columns:
        column.justify = "right"
    for i in _spaced(len(curve), _EPOCHS_SHOWN, always=0):
        epoch = curve[i]
        table.add_row(
            str(epoch.epoch),
            f"{epoch.train_loss:.4f}",
            f"{epoch.val_loss:.4f}",
            format_value("accuracy", epoch.train_accuracy),
            format_value("accuracy", epoch.val_accuracy),
            format_value("train_seconds", epoch.train_seconds),
        )
    return table


def rerun_line(before: Epoch, now: Epoch) -> RenderableType:
    """Returns the recorded and the repeated measurements of an epoch, in a line."""
    pairs = (
        ("val_loss", before.val_loss, now.val_loss),
        ("accuracy", before.val_accuracy, now.val_accuracy),
    )
    text = "  ".join(f"{n} {format_value(n, a)} → {format_value(n, b)}" for n, a, b in pairs)
    return EncodingSafe(Text(f"epoch {now.epoch:>3}  {text}"))


def rerun_verdict(compared: Rerun) -> str:
    """Returns in a line whether a rerun reproduced its trial."""
    if compared.is_equal:
        return f"identical to the last bit, {plural(len(compared.now), 'epoch')}"
    old, new = compared.before[-1], compared.now[-1]
    values = (
        f"accuracy {format_value('accuracy', old.val_accuracy)} before,"
        f" {format_value('accuracy', new.val_accuracy)} now; loss {old.val_loss:.6g} before,"
        f" {new.val_loss:.6g} now"
    )
    if compared.excuse is None:
        return f"{values}; expected identical ones, on the same processor, threads and torch"
    where = "within" if compared.holds else "expected within"
    return (
        f"{values}; training loss of the first epoch {100 * compared.apart:.1f} % apart, {where}"
        f" {100 * compared.tolerance:.0f} %, as {compared.excuse}"
    )
