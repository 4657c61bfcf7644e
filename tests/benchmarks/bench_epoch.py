"""One training epoch of ours against the loops that people usually write.

The same net, batch size and optimizer, one thread, interleaved in one process. The usual loops
draw batches from a DataLoader: over a TensorDataset (``tensors``), and over PIL images with the
usual transforms (``PIL``). Both run the usual block (convolution, batch norm, ReLU, max-pool) in
float32 and in torch's default layout; validation is left out of both.

    python tests/benchmarks/bench_epoch.py [--images 4000] [--repeats 3] [--threads 1]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from arguments import parser_of
from environment import describe_environment, print_table, settle
from pace import spread

if TYPE_CHECKING:
    from hpsearch.nn.data.tensors import Tensors

NETS = ((32, 64, 128), (64, 128, 128, 128), (16,), (16, 32))
BATCH_SIZE = 64


def main() -> None:
    """Measures and prints the table."""
    parser = parser_of(__doc__, repeats=3, threads=1)
    parser.add_argument("--images", type=int, default=4000)
    options = parser.parse_args()
    settle(options.threads)
    print(describe_environment())
    print(
        f"seconds of one epoch, {options.images} images 28×28×1, batch {BATCH_SIZE}, AdamW,"
        f" median of {options.repeats} (range), interleaved"
    )
    rows = []
    for widths in NETS:
        loops = {"ours": ours(widths, options.images)}
        for shift in (0, 2):
            loops.update(usual(widths, options.images, augmented=shift > 0))
        seconds: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(options.repeats + 1):  # the first is to warm up
            for name, loop in loops.items():
                begin = time.perf_counter()
                loop()
                seconds[name].append(time.perf_counter() - begin)
        rows.append(["-".join(map(str, widths)), *cells(seconds)])
    print_table(
        ["net", "ours, shifts", "tensors", "ratio", "PIL", "ratio"],
        rows,
    )


def cells(seconds: dict[str, list[float]]) -> list[str]:
    """Returns the medians with their ranges, and how many times ours is faster."""
    kept = {name: values[1:] for name, values in seconds.items()}
    medians = {name: statistics.median(values) for name, values in kept.items()}
    found = []
    for name, values in kept.items():
        found.append(spread(values))
        if name != "ours":
            found.append(f"{medians[name] / medians['ours']:.2f}")
    return found


def pictures(count: int):
    """Returns random images (N, 28, 28, 1) uint8 and labels (N,): time does not depend on them."""
    import numpy as np

    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
    return images, generator.integers(0, 47, count)


def random_data(count: int) -> Tensors:
    """Returns random images as tensors: that many to train on, and one to validate on."""
    import numpy as np

    from hpsearch.nn.data.tensors import tensors

    images, labels = pictures(count + 1)
    index = np.arange(count + 1)
    return tensors(
        images, labels, index[:-1], index[-1:], mean=(0.5,), std=(0.3,), classes=47, device="cpu"
    )


def ours(widths: tuple[int, ...], count: int) -> Callable[[], None]:
    """Returns a function that trains one of our epochs, shifts included."""
    import torch

    from hpsearch.core.spec import ModelSpec, TrainSpec
    from hpsearch.nn.models import build
    from hpsearch.nn.training.loop import epochs

    data = random_data(count)
    model = build(ModelSpec(widths=widths), data.input_shape, data.classes, seed=0)
    spec = TrainSpec(
        epochs=10**6, batch_size=BATCH_SIZE, optimizer="adamw", learning_rate=1e-3, shift=2
    )
    training = epochs(model, data, spec, device=torch.device("cpu"))
    return lambda: next(training) and None


def usual(widths: tuple[int, ...], count: int, *, augmented: bool) -> dict[str, Callable[[], None]]:
    """Returns the usual loop over a TensorDataset, or, augmented, over PIL images, by name."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, TensorDataset
    from torchvision import transforms

    images, labels = pictures(count)
    if augmented:
        change = transforms.Compose(
            [
                transforms.RandomCrop(28, padding=2),
                transforms.ToTensor(),
                transforms.Normalize((0.5,), (0.3,)),
            ]
        )

        class Pictures(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return count

            def __getitem__(self, index: int):
                return change(Image.fromarray(images[index, ..., 0])), int(labels[index])

        dataset = Pictures()
    else:
        x = (torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() / 255 - 0.5) / 0.3
        dataset = TensorDataset(x, torch.from_numpy(labels))
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, drop_last=True)
    return {"PIL" if augmented else "tensors": usual_loop(usual_net(widths), loader)}


def usual_net(widths: tuple[int, ...]):
    """Returns the net as it is usually written."""
    from torch import nn

    layers: list[nn.Module] = []
    channels, side = 1, 28
    for width in widths:
        convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        if side >= 4:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, 47))


def usual_loop(model, loader: Iterable) -> Callable[[], None]:
    """Returns a function that trains one epoch as it is usually written."""
    import torch
    from torch import nn

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()

    def epoch() -> None:
        model.train()
        running_loss, correct = 0.0, 0
        for images, labels in loader:
            optimizer.zero_grad()
            outputs = model(images)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            correct += (outputs.argmax(1) == labels).sum().item()

    return epoch


if __name__ == "__main__":
    main()
