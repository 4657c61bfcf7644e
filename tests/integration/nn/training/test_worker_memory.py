"""The share of a GPU's memory that a worker needs: measured at the trial that needs most."""

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from hpsearch.core.dimensions import ChoiceDim, FloatDim
from hpsearch.core.space import default_space, draw
from hpsearch.core.spec import DataSpec, SearchSpec, ShapeSpec, StudySpec, resolve
from hpsearch.nn.data.dataset import load
from hpsearch.nn.data.tensors import Batches, tensors_of
from hpsearch.nn.models import build
from hpsearch.nn.training.custom_loop import train_few_steps, worker_memory
from hpsearch.nn.training.loop import epochs, make_optimizer
from hpsearch.search.worker.bounds import most_memory_trial

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(one_thread):
    """600 real digits of 28×28 pixels to train on, 200 to validate."""
    return few_of_mnist(CPU)


def few_of_mnist(device):
    data = load(DataSpec(dataset="mnist5k"))
    split = replace(data.split, train=data.split.train[:600], val=data.split.val[:200])
    return tensors_of(replace(data, split=split), device=device)


def held(trial, images):
    """The bytes that one step keeps: activations for the backward pass, weights, their state."""
    model = build(trial.model, images.input_shape, images.classes, seed=0)
    optimizer = make_optimizer(model, trial.train, device=CPU)
    batch, labels = Batches(images, trial.train).shuffle(1).batch(0)
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        F.cross_entropy(model(batch), labels).backward()
    optimizer.step()
    of_weights = [t for p in model.parameters() for t in (p, p.grad)]
    of_optimizer = [
        t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t)
    ]
    return sum(kept.values()) + sum(t.nbytes for t in (*of_weights, *of_optimizer))


def drawn(spec, rng):
    def suggest(name, dim):
        if isinstance(dim, ChoiceDim):
            return rng.choice(dim.choices)
        return (rng.uniform if isinstance(dim, FloatDim) else rng.randint)(dim.low, dim.high)

    return resolve(spec, number=0, params=draw(spec.space, suggest))


@pytest.mark.parametrize("widths", ["geometric", "per-block"])
def test_no_trial_of_a_space_needs_more_memory_than_the_hungriest(images, widths):
    spec = StudySpec(
        name="s",
        model=ShapeSpec(widths=widths),
        search=SearchSpec(trials=1),
        space=default_space(widths),
    )
    most = held(most_memory_trial(spec), images)
    rng = random.Random(0)
    others = [held(drawn(spec, rng), images) for _ in range(20)]
    assert max(others) <= most
    dear = drawn(replace(spec, space={**spec.space, "batch_size": 64}), rng)
    assert held(dear, images) < most / 2


def test_the_largest_batches_are_trained_on_and_the_validation_images_looked_at(
    images, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "net_that_counts.py").write_text(
        "from torch import nn\n"
        "seen = []\n"
        "class Net(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        seen.append((self.training, len(x)))\n"
        "        return super().forward(x.flatten(1))\n"
        "def build(params, input_shape, classes):\n"
        "    return Net(784, classes)\n"
    )
    import net_that_counts

    import hpsearch

    spec = hpsearch.build_spec({"model": {"factory": "net_that_counts:build"}})
    train_few_steps(most_memory_trial(spec), images, device=CPU)
    looks = [size for training, size in net_that_counts.seen if not training]
    trained = [size for training, size in net_that_counts.seen if training]
    assert trained == [256, 256, 256]
    assert looks[-1] == 128  # an epoch of two such batches ends within the three


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_whole_training_takes_no_more_of_a_gpu_than_was_measured():
    gpu = torch.device("cuda", 0)
    images = few_of_mnist(gpu)
    spec = StudySpec(name="s", search=SearchSpec(trials=1), space=default_space("geometric"))
    trial = most_memory_trial(spec)
    measured = worker_memory(trial, images, device=gpu)
    torch.cuda.reset_peak_memory_stats(gpu)
    model = build(trial.model, images.input_shape, images.classes, seed=0)
    list(epochs(model, images, trial.train, device=gpu))
    assert torch.cuda.max_memory_reserved(gpu) <= measured
