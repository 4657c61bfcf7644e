"""A trial's checkpoint: when it is written, and how the trial goes on from it elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from hpsearch.core.trial import Curve
from hpsearch.nn.training.checkpoint import pack, unpack
from hpsearch.nn.training.loop import Progress
from hpsearch.search.study.claim import Lease
from hpsearch.search.study.study import Study

_SHARE = 0.01  # of the time, at most, that writing may take


class Checkpointer:
    """Keeps one trial's training among the study's artifacts.

    It writes after an epoch, but only so often that writing takes at most a hundredth of the
    time. ``clock`` returns monotonic seconds.
    """

    def __init__(
        self, study: Study, claim: Lease, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._artifacts = study.storage.artifacts
        self._key = study.checkpoint_key(claim.number)
        # An artifact may outlive its database: number and seed alone could be another study's.
        self._owner = f"{study.created.isoformat()} {claim.number} {claim.spec.seed}"
        self._clock = clock
        self._may_write_at = clock()

    def restore(self, model: nn.Module, *, device: torch.device) -> tuple[Progress, Curve]:
        """Loads the weights that an earlier start has left; returns how far it had come."""
        packed = self._artifacts.read(self._key) if self._artifacts is not None else None
        found = unpack(packed, device=device) if packed is not None else None
        if found is None or found.owner != self._owner:
            return Progress(), ()
        model.load_state_dict(found.weights)
        return found.progress, found.curve

    def keep(
        self, model: nn.Module, progress: Progress, curve: Curve, *, now: bool = False
    ) -> None:
        """Writes the training as it stands after an epoch; ``now``: however long that takes."""
        began = self._clock()
        if self._artifacts is None or (began < self._may_write_at and not now):
            return
        self._artifacts.save(self._key, pack(model, progress, curve, owner=self._owner))
        ended = self._clock()
        self._may_write_at = ended + (ended - began) * (1 / _SHARE - 1)
