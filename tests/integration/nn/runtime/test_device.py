"""What must hold on every device of the machine that runs the tests: each of its GPUs, too."""

import dataclasses

import numpy as np
import pytest
import torch

import hpsearch
from hpsearch.core.spec import ModelSpec, TrainSpec
from hpsearch.nn.data.tensors import tensors
from hpsearch.nn.models import build, measure_costs
from hpsearch.nn.runtime.device import (
    autocast_dtype,
    available,
    describe,
    is_out_of_memory,
    pick_device,
)
from hpsearch.nn.serving.model_config import ModelConfig
from hpsearch.nn.serving.predict import write_model
from hpsearch.nn.training.checkpoint import pack, unpack
from hpsearch.nn.training.loop import Progress, epochs
from hpsearch.nn.training.step_timer import StepTimer

CPU = torch.device("cpu")
NET = ModelSpec(widths=(8, 16))
RECIPE = TrainSpec(
    epochs=12, batch_size=32, optimizer="adamw", learning_rate=1e-2, schedule="one-cycle",
    momentum=0.9, shift=0, seed=3,
)  # fmt: skip


@pytest.fixture(params=available())
def device(request, one_thread):
    return pick_device(request.param)


@pytest.fixture
def images(digits, device):
    drawn, labels = digits
    order = np.random.default_rng(0).permutation(len(drawn))
    return tensors(
        drawn[..., None], labels, order[:200], order[200:],
        mean=(0.3,), std=(0.3,), classes=10, device=device,
    )  # fmt: skip


def trained(images, device, *, progress=None):
    """A net that has been trained to the end, or as far as asked, and its curve."""
    net = build(NET, images.input_shape, 10, seed=1)
    return net, tuple(epochs(net, images, RECIPE, device=device, progress=progress))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_a_net_learns_there(images, device, optimizer):
    rate = 0.1 if optimizer == "sgd" else 1e-2
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer, learning_rate=rate)
    net = build(NET, images.input_shape, 10, seed=1)
    curve = tuple(epochs(net, images, recipe, device=device))
    assert next(net.parameters()).device == device
    assert curve[-1].train_accuracy > 0.8
    assert all(epoch.train_seconds > 0 for epoch in curve)


def test_a_training_goes_on_from_a_checkpoint(images, device):
    _, unbroken = trained(images, device)
    net, progress, curve = build(NET, images.input_shape, 10, seed=1), Progress(), ()
    for epoch in epochs(net, images, RECIPE, device=device, progress=progress):
        curve = (*curve, epoch)
        if epoch.epoch == 6:
            break
    found = unpack(pack(net, progress, curve, owner="me"), device=device)
    other = build(NET, images.input_shape, 10, seed=99)
    other.load_state_dict(found.weights)
    rest = tuple(epochs(other, images, RECIPE, device=device, progress=found.progress))
    assert [epoch.epoch for epoch in rest] == list(range(7, 13))
    assert rest[0].train_loss == pytest.approx(unbroken[6].train_loss, rel=0.05)


def test_the_clock_measures_the_work_of_the_device_and_not_its_launch(device):
    """A launch takes as long for little work as for much, and another GPU's stream is empty."""

    def seconds(size):
        square = torch.rand(size, size, device=device)
        clock = StepTimer(device)
        for _ in range(20):
            clock.start()
            for _ in range(4):
                square = (square @ square).clamp_(0, 1)
            clock.stop()
        return clock.estimate(20)

    small, large = (128, 512) if device.type == "cpu" else (2048, 8192)
    seconds(small)
    assert seconds(large) > 8 * seconds(small)  # 64 times the operations


def test_costs_and_names_are_reported(images, device):
    cost = measure_costs(
        build(NET, images.input_shape, 10, seed=1), images.input_shape, device=device
    )
    assert set(cost) == {"params", "flops", "latency_ms"}
    assert cost["latency_ms"] > 0
    assert describe(device).startswith(f"{device.type}: ")
    assert autocast_dtype(device) in (None, torch.bfloat16)


def test_a_model_predicts_there_what_it_does_on_the_processor(images, device, digits, tmp_path):
    net, _ = trained(images, device)
    config = ModelConfig(
        model=NET,
        input_shape=images.input_shape,
        classes=tuple("0123456789"),
        mean=images.mean,
        std=images.std,
        provenance={"study": "s", "trial": 0},
    )
    write_model(tmp_path, net, config)
    there, here = (
        hpsearch.load_model(tmp_path, device=str(name)).predict(digits[0]) for name in (device, CPU)
    )
    assert np.abs(there.probabilities - here.probabilities).max() < 0.02
    assert np.mean(np.array(there.classes) == np.array([str(d) for d in digits[1]])) > 0.8


def test_full_memory_is_distinguished_from_a_bug(device):
    if device.type == "mps":
        pytest.skip("more than there can be is refused as an invalid size there")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, device=device)
    assert is_out_of_memory(caught.value)
