"""How a result is printed for programs."""

from __future__ import annotations

import json
import math
from datetime import datetime

from hpsearch.cli.output import print_json
from hpsearch.core.trial import Epoch, State, TrialRecord


def test_times_have_their_zone(capsys):
    begun = datetime(2030, 1, 1, 12)
    print_json(TrialRecord(number=3, state=State.RUNNING, started=begun))

    told = json.loads(capsys.readouterr().out)
    assert (told["started"], told["ended"]) == (begun.astimezone().isoformat(), None)


def test_a_value_that_is_not_finite_is_null(capsys):
    """A custom training may not know its accuracy: JSON has no NaN."""
    epoch = Epoch(
        epoch=1,
        train_loss=0.5,
        train_accuracy=math.nan,
        val_loss=0.5,
        val_accuracy=0.9,
        train_seconds=1.0,
        wall_seconds=1.0,
    )
    print_json(TrialRecord(number=3, state=State.PRUNED, curve=(epoch,)))

    told = json.loads(capsys.readouterr().out, parse_constant=lambda name: name)
    assert (told["number"], told["state"]) == (3, "pruned")
    assert told["curve"][0]["train_accuracy"] is None
