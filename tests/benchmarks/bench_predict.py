"""Images a second through ``hpsearch predict``, after loading: from an npz and from PNG files.

The net is the quickstart's knee (2 blocks 8-16, kernel 3, flatten, no batch norm), the images are
the 5,000 digits of mnist5k. Counted is all that the command does between loading the model and
printing: reading and decoding, classifying, and making the rows. The two are interleaved.

    python tests/benchmarks/bench_predict.py [--repeats 9] [--threads N]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from arguments import parser_of
from environment import describe_environment, print_table, settle

from hpsearch.nn.runtime import cpu


def main() -> None:
    """Measures both, in turn, and prints the table."""
    options = parser_of(__doc__, repeats=9, threads=cpu.usable_cpus()).parse_args()
    settle(options.threads)
    cpu.keep_freed_memory()
    from hpsearch.nn.serving.predict import classify, load_model

    print(describe_environment())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = write(folder)
        model = load_model(folder / "model", device="cpu")
        sources = {"npz": folder / "digits.npz", "PNG files": folder / "pictures"}
        rates: dict[str, list[float]] = {source: [] for source in sources}
        for repeat in range(options.repeats + 1):
            for source, path in sources.items():
                begin = time.perf_counter()
                rows = classify(model, [path])
                seconds = time.perf_counter() - begin
                assert len(rows) == count
                if repeat:  # the first warms up
                    rates[source].append(count / seconds)
    rows = [
        [source, f"{statistics.median(r):,.0f}", f"{min(r):,.0f} to {max(r):,.0f}", str(len(r))]
        for source, r in rates.items()
    ]
    print_table([f"{count:,} images from", "images/s, median", "range", "n"], rows)


def write(folder: Path) -> int:
    """Writes the model and the images, as an npz and as PNG files; returns how many."""
    import numpy as np
    from PIL import Image

    from hpsearch.core.spec import DataSpec, ModelSpec
    from hpsearch.nn.data.dataset import load
    from hpsearch.nn.models import build
    from hpsearch.nn.serving.model_config import ModelConfig
    from hpsearch.nn.serving.predict import write_model

    data = load(DataSpec())
    spec = ModelSpec(widths=(8, 16), batch_norm=False)
    net = build(spec, data.input_shape, len(data.classes), seed=0)
    config = ModelConfig(
        model=spec,
        input_shape=data.input_shape,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
    )
    for name in ("model", "pictures"):
        (folder / name).mkdir()
    write_model(folder / "model", net, config)
    np.savez(folder / "digits.npz", x=data.images)
    for place, image in enumerate(data.images):
        Image.fromarray(image[..., 0]).save(folder / "pictures" / f"{place:05d}.png")
    return len(data.images)


if __name__ == "__main__":
    main()
