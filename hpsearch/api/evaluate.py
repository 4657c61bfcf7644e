"""Check results: retrain trials with fresh seeds or from their record, and compare studies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from hpsearch.api.run import RunOptions
from hpsearch.errors import SpecError, translate_errors
from hpsearch.util.messages import messages_to

if TYPE_CHECKING:
    from hpsearch.api.studies import StudyHandle
    from hpsearch.core.analysis.comparison import Comparison
    from hpsearch.core.analysis.statistics import Repeat, Replication
    from hpsearch.core.trial import Epoch
    from hpsearch.search.jobs.confirm import OnResult, ReplicationProgress, Rerun


def confirm(
    study: str | None = None,
    *,
    trials: Sequence[int] = (),
    seeds: int = 3,
    storage: str | None = None,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    mixed_hardware: bool = False,
    allow_code: bool = False,
    notify: Callable[[str], None] | None = None,
    repeated: Callable[[Repeat], None] = lambda repeat: None,
) -> tuple[Replication, ...]:
    """Retrains a study's front with fresh seeds and returns means and spread.

    The keywords are the options of ``hpsearch confirm``. Each training is saved with the study when
    it ends, so the same call resumes, also after Ctrl-C, and the report shows the means. torch is
    limited to ``threads`` threads in this process.

    Args:
        study: the study's name; None: the newest.
        trials: the numbers of complete trials; empty: those of the front.
        seeds: the total of trainings of each trial.
        storage: the database; None: ``HPSEARCH_STORAGE``, or else ``hpsearch.db``.
        dataset: the path of the data on this machine; None: the study's.
        data_dir: the folder of named data sets; None: ``HPSEARCH_DATA``, or else ``data``.
        device: auto, cpu, cuda, cuda:1 or mps.
        threads: CPU threads; None: those of the study.
        mixed_hardware: accept hardware other than the study's; its times are not used.
        allow_code: import and run the user code that the study in the database names.
        notify: called with each message for the user; None: they are only logged.
        repeated: called with the result of each training.

    Returns:
        One entry per trial, cheapest first.

    Raises:
        HpsearchError: a trial, the data or the device is invalid; nothing was trained.
    """
    from hpsearch.api.studies import open_study
    from hpsearch.core.analysis.statistics import Repeat

    if type(seeds) is not int or seeds < 1:
        raise SpecError(f"seeds: found {seeds!r}, expected a whole number, 1 or more; pass one")

    def on_progress(_progress: ReplicationProgress, result: Epoch | Repeat) -> None:
        # The epochs are for the command line, which shows them.
        if isinstance(result, Repeat):
            repeated(result)

    options = RunOptions(
        dataset=dataset,
        data_dir=data_dir,
        device=device,
        threads=threads,
        mixed_hardware=mixed_hardware,
    )
    with messages_to(notify), open_study(study, storage=storage) as opened:
        return replicate(
            opened,
            options,
            trials=trials,
            seeds=seeds,
            allow_code=allow_code,
            on_progress=on_progress,
        )


def replicate(
    study: StudyHandle,
    options: RunOptions,
    *,
    trials: Sequence[int],
    seeds: int,
    allow_code: bool = False,
    stop: Callable[[], bool] = lambda: False,
    on_progress: OnResult,
) -> tuple[Replication, ...]:
    """Retrains trials of an open study with fresh seeds, as :func:`confirm`.

    ``options`` hold the data and the hardware to train on; ``allow_code`` is as there. ``stop`` is
    asked before every step; true raises KeyboardInterrupt. ``on_progress`` gets each epoch and the
    result of each training.
    """
    from hpsearch.core.trial import Interrupted
    from hpsearch.search.jobs import confirm as job

    try:
        with translate_errors():
            return job.confirm(
                study.study,
                options.worker_options(allow_code=allow_code),
                trials=trials,
                seeds=seeds,
                dataset=options.dataset,
                stop=stop,
                on_result=on_progress,
            )
    except Interrupted:
        raise KeyboardInterrupt from None


def rerun(
    study: StudyHandle,
    number: int,
    options: RunOptions,
    *,
    allow_code: bool = False,
    on_epoch: Callable[[Epoch, Epoch], None],
) -> Rerun:
    """Retrains a trial from its record and returns both curves; changes nothing.

    ``options`` hold the data and the hardware to train on; threads of None are those of the
    record. ``allow_code`` is as for :func:`confirm`. ``on_epoch`` gets each epoch as recorded and
    as trained now.

    Raises:
        HpsearchError: the trial was never trained, or the data or the device is invalid.
    """
    from hpsearch.search.jobs import confirm as job

    with translate_errors():
        return job.rerun(
            study.study,
            number,
            options.worker_options(allow_code=allow_code),
            dataset=options.dataset,
            on_epoch=on_epoch,
        )


def compare(
    studies: Sequence[str], *, storage: str | None = None, mixed_hardware: bool = False
) -> Comparison:
    """Returns which of several studies is ahead, at equal training and at equal trials.

    The keywords are the options of ``hpsearch compare``.

    Args:
        studies: the names of two or more studies of one database.
        storage: the database; None: ``HPSEARCH_STORAGE``, or else ``hpsearch.db``.
        mixed_hardware: treat seconds of different hardware as equal.

    Raises:
        StudyError: fewer than two studies, or studies that cannot be compared.
        DeviceError: their objectives hold seconds of different hardware.
        StorageError: the database does not exist or cannot be read.
    """
    from hpsearch.api.studies import open_database
    from hpsearch.search.jobs import analyse as job

    if isinstance(studies, str):
        raise SpecError(f"studies: found {studies!r}, expected names; pass a list of two or more")
    with translate_errors(), closing(open_database(storage)) as opened:
        return job.compare(opened, studies, mixed_hardware=mixed_hardware)
