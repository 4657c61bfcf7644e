"""Code of a user, as the text of a module and a study file."""

NETS = """
from torch import nn


def build(params, input_shape, classes):
    channels, height, side = input_shape
    layers, features = [nn.Flatten()], channels * height * side
    for _ in range(params["depth"]):
        layers += [nn.Linear(features, params["hidden"]), nn.ReLU()]
        features = params["hidden"]
    return nn.Sequential(*layers, nn.Linear(features, classes))


def other(params, input_shape, classes):
    return build(params, input_shape, classes)


def number(params, input_shape, classes):
    return 3


def misfit(params, input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(7, classes))


def short(params, input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def viewing(params, input_shape, classes):
    raise ValueError("no such\\nlayer")


def frozen(params, input_shape, classes):
    return nn.Flatten()


class Branching(nn.Linear):
    # Shares its weights under two names, and looks at values: no ONNX file can do that.

    def __init__(self, features, classes):
        super().__init__(features, classes)
        self.again = self.weight

    def forward(self, images):
        rows = images.flatten(1)
        return super().forward(rows if float(rows.sum()) > 0 else -rows)


def branching(params, input_shape, classes):
    return Branching(64, classes)


calls = []


def third(params, input_shape, classes):
    # The net of the rehearsal, of the first training, and then:
    calls.append(params)
    return build(params, input_shape, classes) if len(calls) < 3 else calls[9]


def inside(params, input_shape, classes):
    # Works at both ends of the space, where it is rehearsed, and nowhere between.
    if 4 < params["hidden"] < 32:
        params["hiden"]
    return build(params, input_shape, classes)


def hollow(params, input_shape, classes):
    return 3 if 4 < params["hidden"] < 32 else build(params, input_shape, classes)


class Forgetful(nn.Linear):
    # Works in training, and not when it is tested.

    def forward(self, images):
        if len(images) > 2 and not self.training:
            raise ValueError("what was\\nit again?")
        return super().forward(images.flatten(1))


def forgets(params, input_shape, classes):
    return Forgetful(64, classes)


constant = 3
"""

LOOPS = '''
import dataclasses
import os
import signal

import torch
import torch.nn.functional as F

import hpsearch
from hpsearch.nn.data.tensors import Batches
from hpsearch.nn.training.step_timer import StepTimer
from hpsearch.nn.training.loop import epochs, evaluate


def train(model, data, spec, *, params, device, stop, progress):
    """Plain SGD at the trial's own rate."""
    optimizer = torch.optim.SGD(model.parameters(), lr=params["rate"], momentum=0.9)
    if progress.optimizer is not None:
        optimizer.load_state_dict(progress.optimizer)
    batches, clock = Batches(data, spec), StepTimer(device)
    for number in range(progress.epoch + 1, spec.epochs + 1):
        model.train()
        losses, shuffled = [], batches.shuffle(number)
        for step in range(batches.steps):
            if stop():
                return
            clock.start()
            images, labels = shuffled.batch(step)
            loss = F.cross_entropy(F.dropout(model(images), 0.1), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            clock.stop()
        val_loss, val_accuracy = evaluate(
            model, data.val_images, data.val_labels, mean=data.mean, std=data.std
        )
        progress.epoch, progress.optimizer = number, optimizer.state_dict()
        yield hpsearch.Epoch(
            epoch=number,
            train_loss=sum(losses) / len(losses),
            train_accuracy=0.5,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            train_seconds=clock.estimate(batches.steps * spec.epochs),
            wall_seconds=0.1,
        )


interrupted = False


def forgetful(model, data, spec, *, params, device, stop, progress):
    """Keeps no progress; the first trial to come so far gets a Ctrl-C in its second epoch."""
    global interrupted
    for epoch in epochs(model, data, spec, device=device, stop=stop):
        if epoch.epoch == 2 and not interrupted:
            interrupted = True
            os.kill(os.getpid(), signal.SIGINT)
        yield epoch


def wrapped(model, data, spec, *, params, device, stop, progress):
    yield from epochs(model, data, spec, device=device, stop=stop, progress=progress)


def nothing(model, data, spec, **rest):
    pass


def early(model, data, spec, *, params, device, stop, progress):
    if False:
        yield


def dicts(model, data, spec, **rest):
    yield {"epoch": 1}


def miscounting(model, data, spec, *, params, device, stop, progress):
    for epoch in epochs(model, data, spec, device=device, stop=stop, progress=progress):
        yield dataclasses.replace(epoch, epoch=7)


def tiring(model, data, spec, *, params, device, stop, progress):
    for epoch in epochs(model, data, spec, device=device, stop=stop, progress=progress):
        if epoch.epoch == 2:
            check(epoch)
        yield epoch


def check(epoch):
    raise RuntimeError(f"no more\\nafter {epoch.epoch}")


def quitting(model, data, spec, *, params, device, stop, progress):
    for epoch in epochs(model, data, spec, device=device, stop=stop, progress=progress):
        if epoch.epoch == 2 or spec.label_smoothing > 0.4:
            raise SystemExit(0)  # as an argument parser does
        yield epoch


def greedy(model, data, spec, *, params, device, stop, progress):
    if len(data.train_labels) > spec.batch_size:  # more than one batch, as no rehearsal has
        raise RuntimeError("too many")
    yield from epochs(model, data, spec, device=device, stop=stop, progress=progress)


def breaking(model, data, spec, **rest):
    raise RuntimeError("out of paper")
    yield
'''

STUDY = """
name = "own"

[data]
dataset = "{npz}"

[train]
epochs = 4

[model]
factory = "{nets}:{factory}"

[search]
objectives = ["accuracy", "params"]
trials = 12

[space]
depth = {{ low = 1, high = 3 }}
hidden = {{ low = 4, high = 32, log = true }}
batch_size = 16
"""

TRAINING = """
name = "loop"

[data]
dataset = "{npz}"

[train]
epochs = 3
function = "{loops}:{function}"

[search]
objectives = ["accuracy", "params"]
trials = 6

[space]
n_blocks = 1
base_width = {{ low = 4, high = 8 }}
rate = {{ low = 0.001, high = 0.3, log = true }}
batch_size = 32
"""
