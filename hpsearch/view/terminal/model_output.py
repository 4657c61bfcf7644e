"""What the person sees of a model: its training as it goes, how it ends, and predictions."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpsearch.core.spec import FactorySpec
from hpsearch.core.trial import Epoch
from hpsearch.search.jobs.retrain import RetrainedModel
from hpsearch.view.format import format_seconds, format_value
from hpsearch.view.model.card import accuracy, apart, interval, net, origin, percent, seeds_text
from hpsearch.view.terminal.trial_tables import EncodingSafe, EncodingSafeTable


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
