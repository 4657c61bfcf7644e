"""Whether what searches found holds: fronts trained again, and searches side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from hpsearch.errors import SpecError
from hpsearch.util.messages import messages_to

if TYPE_CHECKING:
    from hpsearch.core.analysis.comparison import Comparison
    from hpsearch.core.analysis.replication import Repeat, Replication
    from hpsearch.core.trial import Epoch
    from hpsearch.search.jobs.confirm import ReplicationProgress


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
    notify: Callable[[str], None] | None = None,
    repeated: Callable[[Repeat], None] = lambda repeat: None,
) -> tuple[Replication, ...]:
    """Trains a study's front again with fresh seeds, and returns what its trials then come to.

    The words are those of ``hpsearch confirm``. Every training is kept with the study as it ends:
    the same call goes on, after Ctrl-C too, and the report shows the means. torch is set to so many
    threads in this process.

    Args:
        study: the study's name; None: the newest.
        trials: the numbers of complete trials; none: those of the front.
        seeds: how many trainings of each there are in the end.
        storage: the database; None: ``HPSEARCH_STORAGE``, or else ``hpsearch.db``.
        dataset: where the data lies here, if not where the study has it.
        data_dir: where named data sets lie; None: ``HPSEARCH_DATA``, or else ``data``.
        device: auto, cpu, cuda, cuda:1 or mps.
        threads: of the processor; None: those of the study.
        mixed_hardware: let other hardware than the study's take part; its times are left out.
        notify: called with each message for the user; None: they are only logged.
        repeated: takes what each training came to, as it ends.

    Returns:
        One entry for each of the trials, the cheapest first.

    Raises:
        HpsearchError: something is not as it must be; nothing was trained.
    """
    from hpsearch.api.run import data_folder, open_study
    from hpsearch.core.analysis.replication import Repeat
    from hpsearch.search.jobs.confirm import confirm as train_again
    from hpsearch.search.worker.launch import WorkerOptions

    if type(seeds) is not int or seeds < 1:
        raise SpecError(f"seeds: found {seeds!r}, expected a whole number, 1 or more; pass one")

    def tell(_where: ReplicationProgress, found: Epoch | Repeat) -> None:
        if isinstance(found, Repeat):
            repeated(found)

    worker_options = WorkerOptions(
        storage="",
        data_dir=data_folder(data_dir),
        device=device,
        threads=threads,
        mixed_hardware=mixed_hardware,
    )
    with messages_to(notify), open_study(study, storage=storage) as opened:
        return train_again(
            opened.study,
            worker_options,
            trials=trials,
            seeds=seeds,
            dataset=dataset,
            stop=lambda: False,
            tell=tell,
        )


def compare(
    studies: Sequence[str], *, storage: str | None = None, mixed_hardware: bool = False
) -> Comparison:
    """Returns which of several studies is ahead, at equal training and at equal trials.

    The words are those of ``hpsearch compare``.

    Args:
        studies: the names of two or more studies of one database.
        storage: the database; None: ``HPSEARCH_STORAGE``, or else ``hpsearch.db``.
        mixed_hardware: take seconds of different hardware as the same.

    Raises:
        StudyError: they are not two or more different studies that can be compared.
        DeviceError: their objectives hold seconds of different hardware.
        StorageError: the database is not there or cannot be read.
    """
    from hpsearch.api.run import open_database, translate_errors
    from hpsearch.search.jobs.compare import compare as compare_studies

    if isinstance(studies, str):
        raise SpecError(f"studies: found {studies!r}, expected names; pass a list of two or more")
    with translate_errors(), closing(open_database(storage)) as opened:
        return compare_studies(opened, studies, mixed_hardware=mixed_hardware)
