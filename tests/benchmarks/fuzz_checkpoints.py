"""Damaged checkpoints: a trial that finds one must start over with one line, and never fail.

    python tests/benchmarks/fuzz_checkpoints.py [--n 2000] [--seed 0]

A real trial on an SQLite file of its own is trained for an epoch and handed back. Then each of n
damaged files takes the place of its checkpoint, and the trial is asked to resume from it. Prints a
table of the results. Exits 1 if a damaged checkpoint was accepted, raised an exception or was
passed over in silence, or if the undamaged one was not accepted.
"""

from __future__ import annotations

import io
import logging
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from arguments import parser_of
from environment import describe_environment, print_table

from hpsearch.core.space import default_space
from hpsearch.core.spec import RecipeSpec, SearchSpec, StudySpec
from hpsearch.nn.data.tensors import Tensors
from hpsearch.nn.models import build, measure_costs
from hpsearch.nn.training.checkpoint import sealed
from hpsearch.nn.training.loop import Progress, epochs
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import create_or_resume
from hpsearch.search.study.leases import Lease, process_identity
from hpsearch.search.study.study import Study
from hpsearch.search.worker.trainer import Checkpointer

CPU = torch.device("cpu")
ORIGIN = {"process": process_identity(), "device": "cpu", "processor": "fuzz", "threads": 1}
HEADER = len(sealed(b""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The checkpoint of the trial, and that of another one with other values."""

    own: bytes
    other: bytes


Damage = Callable[[random.Random, Files], bytes]


def _span(draw: random.Random, data: bytes) -> tuple[int, int]:
    """A random part of the data, of 1 to 512 bytes."""
    start = draw.randrange(len(data))
    return start, min(len(data), start + draw.randint(1, 512))


def _flipped(draw: random.Random, files: Files) -> bytes:
    damaged = bytearray(files.own)
    damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def _flipped_header(draw: random.Random, files: Files) -> bytes:
    damaged = bytearray(files.own)
    damaged[draw.randrange(HEADER)] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def _cut(draw: random.Random, files: Files) -> bytes:
    return files.own[: draw.randrange(len(files.own))]


def _appended(draw: random.Random, files: Files) -> bytes:
    return files.own + draw.randbytes(draw.randint(1, 512))


def _removed(draw: random.Random, files: Files) -> bytes:
    start, end = _span(draw, files.own)
    return files.own[:start] + files.own[end:]


def _zeroed(draw: random.Random, files: Files) -> bytes:
    start, end = _span(draw, files.own)
    return files.own[:start] + bytes(end - start) + files.own[end:]


def _overwritten(draw: random.Random, files: Files) -> bytes:
    start, end = _span(draw, files.own)
    return files.own[:start] + draw.randbytes(end - start) + files.own[end:]


def _spliced(draw: random.Random, files: Files) -> bytes:
    start, end = _span(draw, files.own)
    return files.own[:start] + files.other[start:end] + files.own[end:]


def _swapped_header(_: random.Random, files: Files) -> bytes:
    return files.own[:HEADER] + files.other[HEADER:]


def _old_format(_: random.Random, files: Files) -> bytes:
    return files.own[HEADER:]


def _noise(draw: random.Random, _: Files) -> bytes:
    return draw.randbytes(draw.randrange(4096))


def _sealed_noise(draw: random.Random, files: Files) -> bytes:
    """Whole by its digest, and yet no checkpoint."""
    start, _ = _span(draw, files.own)
    pickled = io.BytesIO()
    torch.save(draw.choice([{}, {"owner": 1}, [1.0], {"epoch": "x", "curve": 3}]), pickled)
    return sealed(draw.choice([draw.randbytes(64), files.own[HEADER:start], pickled.getvalue()]))


def _of_another_trial(_: random.Random, files: Files) -> bytes:
    return files.other


DAMAGES: dict[str, Damage] = {
    "a bit flipped": _flipped,
    "a bit flipped in the header": _flipped_header,
    "cut short": _cut,
    "bytes appended": _appended,
    "bytes removed": _removed,
    "bytes zeroed": _zeroed,
    "bytes overwritten": _overwritten,
    "bytes of another checkpoint": _spliced,
    "content of another checkpoint": _swapped_header,
    "without digest (the old format)": _old_format,
    "noise": _noise,
    "noise with a valid digest": _sealed_noise,
    "another trial's checkpoint": _of_another_trial,
}


@dataclass(slots=True, kw_only=True)
class Trial:
    """A trial that was trained for an epoch and waits to be resumed."""

    study: Study
    lease: Lease
    images: Tensors

    def restore(self, content: bytes) -> tuple[bool, int]:
        """Returns whether the trial resumes from a file of that content, and the lines logged."""
        heard = Lines()
        logger = logging.getLogger("hpsearch")
        logger.addHandler(heard)
        logger.propagate = False
        try:
            assert self.study.storage.artifacts is not None
            self.study.storage.artifacts.save(self.lease.checkpoint_key, content)
            model, before = self._model(), self._model()
            progress, curve = Checkpointer(self.study, self.lease).restore(model, device=CPU)
        finally:
            logger.removeHandler(heard)
        same = [
            torch.equal(ours, theirs)
            for ours, theirs in zip(
                model.state_dict().values(), before.state_dict().values(), strict=True
            )
        ]
        is_fresh = not curve and not progress.epoch and progress.optimizer is None and all(same)
        return not is_fresh, heard.count

    def _model(self) -> torch.nn.Module:
        return build(self.lease.spec.model, self.images.input_shape, 10, seed=self.lease.spec.seed)


class Lines(logging.Handler):
    """Counts the lines that a user would see."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Counts one."""
        self.count += 1


def train(study: Study, lease: Lease, images: Tensors) -> bytes:
    """Trains the trial for an epoch as a worker does; returns its checkpoint."""
    model = build(lease.spec.model, images.input_shape, 10, seed=lease.spec.seed)
    lease.write_cost(measure_costs(model, images.input_shape, device=CPU))
    progress = Progress()
    training = epochs(model, images, lease.spec.train, device=CPU, progress=progress)
    curve = (next(training),)
    lease.write_epoch(curve)
    Checkpointer(study, lease).keep(model, progress, curve, now=True)
    assert study.storage.artifacts is not None
    written = study.storage.artifacts.read(lease.checkpoint_key)
    assert written is not None
    return written


def prepare(folder: Path) -> tuple[Trial, Files]:
    """Trains two trials of a study in the folder for an epoch; returns the first one again."""
    space = {**default_space("geometric"), "n_blocks": 2, "base_width": 4, "batch_size": 16}
    space |= {"optimizer": "adam"}
    spec = StudySpec(
        name="fuzz",
        train=RecipeSpec(epochs=3, shift=0),
        search=SearchSpec(trials=2, sampler="random", objectives=("accuracy",)),
        space=space,
    )
    storage = open_storage(str(folder / "fuzz.db"), create=True)
    study = create_or_resume(
        storage, spec, data={"content": "fuzz"}, reference={}, bounds=lambda: {"accuracy": (0, 1)}
    )
    drawn = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (96, 1, 8, 8), generator=drawn, dtype=torch.uint8)
    labels = torch.randint(0, 10, (96,), generator=drawn)
    images = Tensors(
        train_images=pixels[:64], train_labels=labels[:64],
        val_images=pixels[64:], val_labels=labels[64:],
        mean=(0.5,), std=(0.3,), classes=10,
    )  # fmt: skip
    first, second = study.acquire(ORIGIN), study.acquire(ORIGIN)
    assert isinstance(first, Lease)
    assert isinstance(second, Lease)
    files = Files(own=train(study, first, images), other=train(study, second, images))
    first.hand_back()
    again = study.acquire(ORIGIN)
    assert isinstance(again, Lease)
    assert again.number == first.number
    return Trial(study=study, lease=again, images=images), files


def outcome(trial: Trial, content: bytes) -> str:
    """Returns in a word what the trial did with a file of that content."""
    try:
        is_accepted, lines = trial.restore(content)
    except Exception as exc:  # whatever it is, it would fail the trial
        print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
        return "raised"
    if is_accepted:
        return "accepted"
    return "starts over" if lines == 1 else "silent"


def main() -> None:
    """Damages the checkpoint n times, prints the table and exits."""
    parser = parser_of(__doc__)
    parser.add_argument("--n", type=int, default=2000, help="damaged files  [default: 2000]")
    parser.add_argument("--seed", type=int, default=0, help="of the damage  [default: 0]")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    draw, found = random.Random(chosen.seed), Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as folder:
        trial, files = prepare(Path(folder))
        sound = outcome(trial, files.own)
        for i in range(chosen.n):
            name = list(DAMAGES)[i % len(DAMAGES)]
            while (content := DAMAGES[name](draw, files)) == files.own:
                pass  # zeros over zeros damage nothing
            found[name, outcome(trial, content)] += 1
        trial.study.storage.close()
    print(describe_environment())
    print(f"seed      {chosen.seed}; a checkpoint has {len(files.own):,} bytes\n")
    ends = ("starts over", "accepted", "raised", "silent")
    rows = [[name, *(str(found[name, end]) for end in ends)] for name in DAMAGES]
    print_table(["damage", *ends], rows)
    total = {end: sum(found[name, end] for name in DAMAGES) for end in ends}
    print(
        f"\n{chosen.n} damaged checkpoints: {total['accepted']} accepted, {total['raised']} raised,"
        f" {total['silent']} without a line; the undamaged one was {sound}"
    )
    sys.exit(0 if total["starts over"] == chosen.n and sound == "accepted" else 1)


if __name__ == "__main__":
    main()
