"""What a run leaves: the front on the screen, what to type next, and the report as a file."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from hpsearch.core.analysis.pareto import front
from hpsearch.core.analysis.pruning_stats import savings, study_hypervolume
from hpsearch.core.analysis.recommendation import recommend
from hpsearch.core.plural import plural
from hpsearch.core.trial import TrialRecord
from hpsearch.errors import HpsearchError
from hpsearch.search.storage.records import DATA
from hpsearch.search.study.study import Study
from hpsearch.view.report.narrative import guessing_words, headline
from hpsearch.view.terminal.trial_tables import end_summary

_log = logging.getLogger(__name__)


def write_report(study: Study, *, storage_options: Sequence[str]) -> Path | None:
    """Writes the report into the current folder; returns where, None if there is none.

    There is none before a trial has ended, and where the folder cannot be written, which is told
    and no failure: the study is safe in its database.
    """
    if not any(record.state.counts for record in study.records()):
        return None
    from hpsearch.search.jobs.analyse import analyse_study
    from hpsearch.view.report.report import default_path, render, write

    path = default_path(study.name)
    try:
        write(render(analyse_study(study), "html", storage_options=storage_options), path)
    except HpsearchError as exc:
        _log.info("no report: %s", exc)
        return None
    return path


def ending_view(
    study: Study,
    ending: str,
    *,
    storage_options: Sequence[str],
    again: Sequence[str],
    report: Path | None = None,
) -> RenderableType:
    """Returns the end of a run.

    Args:
        study: the study as it stands now.
        ending: how the run ended, in a word or two.
        storage_options: the options that name the storage, for the commands to type next.
        again: the study file and the options that the same search needs again.
        report: where the report was written, if it was.
    """
    records = study.records()
    chosen, knee = front(records, study.objectives)
    counted, target = sum(r.state.counts for r in records), study.spec.search.trials
    head = f"study {study.name}: {ending}, {counted} of {plural(target, 'trial')}"
    summary = end_summary(
        chosen,
        objectives=study.objectives,
        knee=knee,
        hypervolume=study_hypervolume(records, study.bounds) if chosen else None,
        saved=savings(records, epochs=study.spec.train.epochs),
        commands=[
            *_next(study, knee, storage_options, again, done=counted >= target),
            *_open(report),
        ],
    )
    told = _doubt(study, records)
    return Group(Text(head, "bold"), *[Text(told, "yellow")] * bool(told), Text(), summary)


def _doubt(study: Study, records: Sequence[TrialRecord]) -> str:
    """What is to be said above a front that is worth nothing; empty of any other."""
    found = recommend(
        records,
        objectives=study.objectives,
        val_images=study.attributes.get(DATA, {}).get("val"),
        chance=study.bounds.get("accuracy", (None,))[0],
    )
    return f"{headline(found)} {guessing_words(found)}" if found.is_guessing else ""


def _open(report: Path | None) -> list[str]:
    return [] if report is None else [f"{report}  # the report: open it in a browser"]


def _next(
    study: Study,
    knee: int | None,
    storage_options: Sequence[str],
    again: Sequence[str],
    *,
    done: bool,
) -> list[str]:
    target = study.spec.search.trials
    named = ["--study", study.name]
    more = shlex.join(
        [
            "hpsearch",
            "run",
            *again,
            *named,
            "--trials",
            str(target * 2 if done else target),
            *storage_options,
        ]
    )
    commands = [f"{more}  # {'search on' if done else 'go on'}"]
    if knee is not None:
        is_one = len(study.objectives) == 1
        which = ["--trial", str(knee)] if is_one else ["--knee"]
        home = shlex.join(["hpsearch", "train", *which, *named, *storage_options, "-o", "model"])
        commands.append(f"{home}  # take the {'best' if is_one else 'knee'} home")
    if knee is not None and done:
        again_and_again = shlex.join(["hpsearch", "confirm", *named, *storage_options])
        commands.append(f"{again_and_again}  # train the front again with fresh seeds")
    commands.append(
        shlex.join(["hpsearch", "dashboard", *storage_options]) + "  # browse all trials"
    )
    return commands
