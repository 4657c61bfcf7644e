"""What a person reads: records and summaries as Rich renderables, values as text.

Nothing is counted or ranked here; the numbers come from :mod:`hpsearch.core`. Print what these
functions return with ``soft_wrap=True``: tables still fit the console, and the commands to copy
stay on one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from hpsearch.core.analysis.pruning_stats import Savings, StudySummary
from hpsearch.core.plural import plural
from hpsearch.core.trial import Curve, Epoch, State, TrialRecord
from hpsearch.search.jobs.doctor import Finding, Health
from hpsearch.search.jobs.rerun import TOLERANCE, Rerun
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

KNEE, BEST = "◀ knee", "◀ best"
STYLES = {
    State.COMPLETE: "green",
    State.PRUNED: "yellow",
    State.FAILED: "red",
    State.RUNNING: "cyan",
    State.WAITING: "cyan",
}
_EPOCHS_SHOWN = 24


class EncodingSafe:
    """A renderable, written in characters that the console's encoding has."""

    def __init__(self, inner: RenderableType) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return _respelled(console.render(self.inner, options), options.encoding)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.inner)


class EncodingSafeTable(Table):
    """A table without a frame, written in characters that the console's encoding has."""

    def __init__(self, *headers: str) -> None:
        super().__init__(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for header in headers:
            self.add_column(header, no_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rendered = super().__rich_console__(console, options)
        return _respelled((s for s in rendered if isinstance(s, Segment)), options.encoding)


def _respelled(segments: Iterable[Segment], encoding: str) -> Iterable[Segment]:
    for segment in segments:
        if segment.control:
            yield segment
        else:
            yield Segment(encodable(segment.text, encoding), segment.style)


def front_table(
    chosen: Sequence[TrialRecord], *, objectives: Sequence[str], knee: int | None
) -> Table:
    """Returns the front as a table, in the order given, the trial numbered ``knee`` marked.

    One line a trial at 100 columns with two objectives; narrower, the configuration wraps. Trials
    that are no bargain at any price are dim, and a line below says so.
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
    """Returns the front as a table, under the study's name."""
    table = front_table(chosen, objectives=objectives, knee=knee)
    return EncodingSafe(Group(Text(f"study {study}", "bold"), Text(), table))


def short_front(
    chosen: Sequence[TrialRecord], *, objectives: Sequence[str], knee: int | None, rows: int
) -> Table:
    """Returns the front in at most ``rows`` (1 or more) lines under a header of two.

    Where it holds more, its two ends, its knee and evenly spaced others are shown.
    """
    table = _objectives_table(objectives)
    table.add_column("configuration")
    knee_at = next((i for i, r in enumerate(chosen) if r.number == knee), 0)
    for i in _spaced(len(chosen), rows, always=knee_at):
        cells = _objective_cells(chosen[i], objectives=objectives, knee=knee)
        table.add_row(*cells, Text(describe(chosen[i]), no_wrap=True, overflow="ellipsis"))
    return table


def _spaced(count: int, places: int, *, always: int) -> list[int]:
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
    """Returns what marks the knee; of one objective it is the best trial."""
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
    """Returns the end of a run: the front, its worth, what pruning saved and what to type next.

    The worth is left out where it is None, and with one objective, whose best value tells it.
    """
    parts: list[RenderableType] = []
    if chosen:
        parts += [front_table(chosen, objectives=objectives, knee=knee), Text()]
    else:
        parts += [Text("No trial is complete, so there is no front yet.")]
    facts = _facts()
    if hypervolume is not None and len(objectives) > 1:
        facts.add_row("hypervolume", f"{hypervolume:.4f} of 1")
    facts.add_row("pruning", Text(savings_text(saved)))
    parts.append(facts)
    if commands:
        parts += [Text(), Text("next")]
        parts += [Text(f"  {command}", "bold") for command in commands]
    return EncodingSafe(Group(*parts))


def trial_details(record: TrialRecord, *, study: str, objectives: Sequence[str]) -> RenderableType:
    """Returns all that is known of a trial: its state, values, configuration, curve and origin."""
    parts: list[RenderableType] = [_trial_facts(record, study=study, objectives=objectives)]
    if record.curve:
        parts += [Text(), _curve_table(record.curve)]
        if len(record.curve) > _EPOCHS_SHOWN:
            parts.append(
                Text(f"{_EPOCHS_SHOWN} of {len(record.curve)} epochs; --json has them all")
            )
    failure = record.attributes.get("failure")
    if isinstance(failure, Mapping) and failure.get("traceback"):
        parts += [Text(), Text(str(failure["traceback"]).rstrip())]
    return EncodingSafe(Group(*parts))


def _trial_facts(record: TrialRecord, *, study: str, objectives: Sequence[str]) -> Table:
    facts = _facts()
    facts.add_row("study", Text(study))
    facts.add_row("trial", f"{record.number}{' (control: never pruned)' if record.control else ''}")
    facts.add_row("state", state_text(record))
    measured = {**record.cost, **record.values}
    names = [*objectives, *(name for name in measured if name not in objectives)]
    for name in names:
        if name in measured:
            facts.add_row(name, format_value(name, measured[name]))
    if record.params:
        facts.add_row("configuration", Text(describe(record)))
        facts.add_row("", Text(_plain(record.params)))
    if record.seed is not None:
        facts.add_row("seed", str(record.seed))
    if record.started is not None:
        facts.add_row("when", _period(record.started, record.ended))
    origin = _mapping(record, "origin")
    if isinstance(process := origin.get("process"), Mapping):
        facts.add_row("process", Text(f"{process.get('pid')} on {process.get('host')}"))
    for name in ("processor", "device", "threads", "versions", "mixed_hardware"):
        if name in origin:
            facts.add_row(name, Text(_plain(origin[name])))
    if origin.get("starts", 1) > 1:
        facts.add_row("starts", f"{origin['starts']}; the trial was interrupted before")
    if record.curve:
        losses = [epoch.val_loss for epoch in record.curve]
        ends = f"{losses[0]:.3f} → {losses[-1]:.3f}"
        facts.add_row("val_loss", f"{sparkline(losses[-60:])}  {ends}")
    return facts


def state_text(record: TrialRecord) -> Text:
    """Returns the trial's state, and why it is in it if that is known."""
    text = Text(record.state.value, STYLES[record.state])
    reason = record.reason or ""
    if record.state is State.PRUNED and "epoch" not in reason:
        text.append(f" after epoch {len(record.curve)}", "default")
    if record.state is State.WAITING and record.curve:
        text.append(f": handed back after epoch {len(record.curve)}, starts again", "default")
    return text.append(f": {reason}", "default") if reason else text


def _mapping(record: TrialRecord, key: str) -> Mapping[str, Any]:
    value = record.attributes.get(key)
    return value if isinstance(value, Mapping) else {}


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _period(started: datetime, ended: datetime | None) -> str:
    if ended is None:
        return f"{started:%Y-%m-%d %H:%M}"
    took = max(0.0, (ended - started).total_seconds())
    return f"{started:%Y-%m-%d %H:%M}, took {format_seconds(took)}"


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


def status_lines(summary: StudySummary) -> RenderableType:
    """Returns where a study stands, one fact a line."""
    s, facts = summary, _facts()
    facts.add_row("study", Text(s.study))
    facts.add_row("storage", Text(s.storage))
    facts.add_row("objectives", ", ".join(s.objectives))
    facts.add_row("created", made(s))
    done = f"{s.complete + s.pruned} of {s.target}"
    facts.add_row("trials", f"{done}: {s.complete} complete, {s.pruned} pruned")
    facts.add_row("", f"{s.running} running, {s.waiting} waiting, {s.failed} failed (not counted)")
    if s.silent:
        facts.add_row("", f"{s.silent} of those running lost their workers; the next takes them up")
    facts.add_row("front", plural(s.front_size, "trial"))
    facts.add_row("hypervolume", worth(s))
    return EncodingSafe(facts)


def made(summary: StudySummary) -> str:
    """Returns when a study was made, in local time, as all times of trials are told."""
    return "-" if summary.created is None else f"{summary.created.astimezone():%Y-%m-%d %H:%M}"


def worth(summary: StudySummary) -> str:
    """Returns the hypervolume as it is told: a dash of one objective, or of no complete trial."""
    tells = summary.complete and len(summary.objectives) > 1
    return f"{summary.hypervolume:.4f}" if tells else "-"


def rerun_line(before: Epoch, now: Epoch) -> RenderableType:
    """Returns an epoch as it was and as it is now, in a line."""
    pairs = (
        ("val_loss", before.val_loss, now.val_loss),
        ("accuracy", before.val_accuracy, now.val_accuracy),
    )
    told = "  ".join(f"{n} {format_value(n, a)} → {format_value(n, b)}" for n, a, b in pairs)
    return EncodingSafe(Text(f"epoch {now.epoch:>3}  {told}"))


def rerun_verdict(compared: Rerun) -> str:
    """Returns what became of a trial that was trained again, in a line."""
    if compared.is_equal:
        return f"the same to the last bit, {len(compared.now)} epochs"
    old, new = compared.before[-1], compared.now[-1]
    told = (
        f"accuracy {format_value('accuracy', old.val_accuracy)} before,"
        f" {format_value('accuracy', new.val_accuracy)} now; loss {old.val_loss:.6g} before,"
        f" {new.val_loss:.6g} now"
    )
    if compared.excuse is None:
        return f"{told}; expected the same, on the same processor, threads and torch"
    where = "within" if compared.holds else "expected within"
    return (
        f"{told}; training loss of the first epoch {100 * compared.apart:.1f} % apart, {where}"
        f" {100 * TOLERANCE:.0f} %, as {compared.excuse}"
    )


def findings_table(findings: Sequence[Finding]) -> RenderableType:
    """Returns what the doctor found, one thing a line, with what to do below it."""
    table = _facts()
    table.add_column(overflow="fold")
    for finding in findings:
        mark = Text(_MARKS[finding.health], _HEALTH_STYLES[finding.health])
        table.add_row(finding.name, mark, Text(finding.found))
        if finding.advice:
            table.add_row("", "", Text(f"→ {finding.advice}", "dim"))
    return EncodingSafe(table)


_MARKS = {Health.GOOD: "ok", Health.FAIR: "so-so", Health.BAD: "BAD"}
_HEALTH_STYLES = {Health.GOOD: "green", Health.FAIR: "yellow", Health.BAD: "bold red"}


def _facts() -> Table:
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True, style="dim")
    facts.add_column(overflow="fold")
    return facts
