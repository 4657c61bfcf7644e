"""A spec written as a study file is the same study when it is read."""

import pytest

from hpsearch.config import build_spec, load_study_file
from hpsearch.core.spec import to_json
from hpsearch.core.spec_text import identity, to_toml


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {
            "name": 'quotes " and \\ and ✓\x7f\t',
            "data": {"dataset": "birds/größe", "image_size": 48, "val_fraction": 0.1},
            "train": {"flip": True, "rotate": 7.5},
            "model": {"widths": "per-block"},
            "search": {
                "objectives": ["accuracy", "train_seconds", "params"],
                "sampler": "grid+random",
                "grid": ["kernel_size", "head"],
                "timeout": "1h30m",
                "seed": 2**62,
            },
            "pruning": {"pruner": "asha", "rungs": [1, 3]},
            "space": {
                "n_blocks": 3,
                "width": {"low": 8, "high": 64, "step": 8},
                "width_2": 17,
                "batch_norm": False,
                "dropout": 0,
                "optimizer": ["sgd"],
                "learning_rate": {"low": 1e-7, "high": 10, "log": True},
            },
        },
    ],
)
def test_it_reads_back_as_the_same_spec(raw, tmp_path):
    spec = build_spec(raw)
    path = tmp_path / "study.toml"
    path.write_text(to_toml(spec), encoding="utf-8")

    again = load_study_file(path)

    assert to_json(again) == to_json(spec)
    assert identity(again) == identity(spec)
