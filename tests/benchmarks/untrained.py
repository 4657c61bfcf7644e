"""Trials that nobody trained, put into a database as a search leaves them there."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import optuna

from hpsearch.core.dimensions import Dim, Value
from hpsearch.core.space import Space, draw
from hpsearch.search.samplers import distribution
from hpsearch.search.storage.storage import Storage


def draw_at_random(space: Space, *, seed: int) -> tuple[dict[str, Value], dict[str, Any]]:
    """Draws a configuration; returns it, and its part that is drawn as Optuna's trials hold it."""
    random = optuna.samplers.RandomSampler(seed=seed)
    kinds: dict[str, Any] = {}

    def suggest(name: str, dim: Dim) -> Value:
        kinds[name] = distribution(dim)
        return random.sample_independent(None, None, name, kinds[name])

    params = draw(space, suggest)
    return params, {"params": {name: params[name] for name in kinds}, "distributions": kinds}


def add(storage: Storage, handle: optuna.Study, trials: Iterable[optuna.trial.FrozenTrial]) -> None:
    """Adds the trials to the study, a hundred in a transaction."""
    left = iter(trials)
    while some := list(islice(left, 100)):
        with storage.transaction():
            for trial in some:
                storage.backend.create_new_trial(handle._study_id, template_trial=trial)
