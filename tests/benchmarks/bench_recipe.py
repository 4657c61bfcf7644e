"""The trainer with a good recipe on real images: accuracy on test images it never saw.

EMNIST sample (28,200 training and 4,700 test images, 47 classes; the .npz is named by
HPSEARCH_EMNIST_SAMPLE), net 32-64-128 with flattened head and dropout 0.3, AdamW with one-cycle
to 6e-3, weight decay 0.02, batch 128, shifts by up to 2 pixels, label smoothing 0.05.

    HPSEARCH_EMNIST_SAMPLE=… python tests/benchmarks/bench_recipe.py [--seeds 3] [--epochs 12]
"""

from __future__ import annotations

import os
import statistics
import sys
import time

from arguments import parser_of
from environment import describe_environment, print_table, settle

from hpsearch.nn.runtime import cpu


def main() -> None:
    """Trains once per seed and prints the table."""
    parser = parser_of(__doc__, seeds=3, epochs=12, threads=cpu.usable_cpus())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    path = os.environ.get("HPSEARCH_EMNIST_SAMPLE")
    if not path:
        sys.exit(
            "HPSEARCH_EMNIST_SAMPLE: found nothing, expected the path of an .npz with x_train,"
            " y_train, x_test and y_test; set it and run again"
        )
    settle(options.threads)
    from hpsearch.nn.runtime.device import pick_device

    device = pick_device(options.device)
    print(describe_environment(device))
    rows, scores = [], []
    for seed in range(options.seeds):
        begin = time.perf_counter()
        curve = train(path, seed=seed, epochs_=options.epochs, device=device)
        scores.append(curve[-1].val_accuracy)
        early = next((e.val_accuracy for e in curve if e.epoch == 4), float("nan"))
        seconds = time.perf_counter() - begin
        print(f"seed {seed}: {scores[-1]:.2%} after {seconds:.0f} s", file=sys.stderr)
        rows.append([str(seed), f"{early:.2%}", f"{scores[-1]:.2%}", f"{seconds:.0f}"])
    print_table(["seed", "test at epoch 4", f"test at epoch {options.epochs}", "seconds"], rows)
    spread = statistics.stdev(scores) if len(scores) > 1 else float("nan")
    print(f"mean {statistics.mean(scores):.2%}, deviation {spread:.2%}, n = {len(scores)}")


def train(path: str, *, seed: int, epochs_: int, device):
    """Returns the curve of one training; its validation images are the sample's test images."""
    import numpy as np

    from hpsearch.core.spec import ModelSpec, TrainSpec
    from hpsearch.nn.data.tensors import tensors
    from hpsearch.nn.models import build
    from hpsearch.nn.training.loop import epochs

    with np.load(path) as sample:
        images = np.concatenate([sample["x_train"], sample["x_test"]])[..., None]
        labels = np.concatenate([sample["y_train"], sample["y_test"]]).astype(np.int64)
        count = len(sample["x_train"])
    pixels = images[:count] / np.float32(255)
    data = tensors(
        images,
        labels,
        np.arange(count),
        np.arange(count, len(images)),
        mean=(float(pixels.mean()),),
        std=(float(pixels.std()),),
        classes=47,
        device=device,
    )
    model = build(
        ModelSpec(widths=(32, 64, 128), dropout=0.3), data.input_shape, data.classes, seed=seed
    )
    spec = TrainSpec(
        epochs=epochs_,
        batch_size=128,
        optimizer="adamw",
        learning_rate=6e-3,
        weight_decay=0.02,
        schedule="one-cycle",
        label_smoothing=0.05,
        shift=2,
        seed=seed,
    )
    return list(epochs(model, data, spec, device=device))


if __name__ == "__main__":
    main()
