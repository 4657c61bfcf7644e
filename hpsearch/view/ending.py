"""What a run leaves on the screen: the front, its worth, and what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from hpsearch.core.analysis import savings, study_hypervolume
from hpsearch.core.pareto import front
from hpsearch.search.study import Study
from hpsearch.view.tables import end_summary


def ending_view(
    study: Study, ending: str, *, place: Sequence[str], again: Sequence[str]
) -> RenderableType:
    """Returns the end of a run.

    Args:
        study: the study as it stands now.
        ending: how the run ended, in a word or two.
        place: the options that name the storage, for the commands to type next.
        again: the study file and the options that the same search needs again.
    """
    records = study.records()
    chosen, knee = front(records, study.objectives)
    counted, target = sum(r.state.counts for r in records), study.spec.search.trials
    head = f"study {study.name}: {ending}, {counted} of {target} trials"
    summary = end_summary(
        chosen,
        objectives=study.objectives,
        knee=knee,
        hypervolume=study_hypervolume(records, study.bounds) if chosen else None,
        saved=savings(records, epochs=study.spec.train.epochs),
        commands=_next(study, knee, place, again, done=counted >= target),
    )
    return Group(Text(head, "bold"), Text(), summary)


def _next(
    study: Study,
    knee: int | None,
    place: Sequence[str],
    again: Sequence[str],
    *,
    done: bool,
) -> list[str]:
    target = study.spec.search.trials
    named = ["--study", study.name]
    more = shlex.join(
        ["hpsearch", "run", *again, *named, "--trials", str(target * 2 if done else target), *place]
    )
    commands = [f"{more}  # {'search on' if done else 'go on'}"]
    if knee is not None:
        commands.append(
            shlex.join(["hpsearch", "show", str(knee), *named, *place]) + "  # the knee"
        )
    commands.append(shlex.join(["hpsearch", "dashboard", *place]) + "  # browse all trials")
    return commands
