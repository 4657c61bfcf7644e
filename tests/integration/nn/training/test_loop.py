"""Training on real small images: learning, repeatability, schedules, augmentation, endings."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from hpsearch.core.spec import ModelSpec, TrainSpec
from hpsearch.core.trial import Interrupted
from hpsearch.nn.data.tensors import Batches, Scaler, rotate, tensors
from hpsearch.nn.models import build
from hpsearch.nn.runtime.device import autocast_dtype
from hpsearch.nn.training.loop import (
    Diverged,
    Progress,
    epochs,
    evaluate,
    learning_rate,
    make_optimizer,
    set_learning_rate,
)

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SMALL = ModelSpec(widths=(8, 16), dropout=0.2)
SPEC = TrainSpec(
    epochs=4,
    batch_size=64,
    optimizer="adamw",
    learning_rate=5e-3,
    schedule="one-cycle",
    shift=1,
    seed=7,
)


@pytest.fixture(scope="module")
def digits():
    """1,797 real digits of 8×8 pixels, split 1,437 to 360."""
    raw = load_digits()
    images = np.round(raw.images * (255 / 16)).astype(np.uint8)[..., None]  # (N, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(images))
    train, val = order[:1437], order[1437:]
    mean, std = float(images[train].mean() / 255), float(images[train].std() / 255)
    labels = raw.target.astype(np.int64)
    return tensors(images, labels, train, val, mean=(mean,), std=(std,), classes=10, device="cpu")


@pytest.fixture
def few(digits):
    """The first 200 training and 50 validation digits."""
    return dataclasses.replace(
        digits,
        train_images=digits.train_images[:200],
        train_labels=digits.train_labels[:200],
        val_images=digits.val_images[:50],
        val_labels=digits.val_labels[:50],
    )


def train(data, spec=SPEC, model_spec=SMALL, **options):
    model = build(model_spec, data.input_shape, data.classes, seed=0)
    return list(epochs(model, data, spec, device=CPU, **options))


def scores(curve):
    """What must repeat: all but the times."""
    return [(e.epoch, e.train_loss, e.train_accuracy, e.val_loss, e.val_accuracy) for e in curve]


def test_the_default_net_reads_digits_after_a_few_epochs(digits):
    spec = dataclasses.replace(SPEC, epochs=6, label_smoothing=0.05, weight_decay=0.02)
    curve = train(digits, spec, ModelSpec(widths=(32, 64, 128), dropout=0.3))
    assert curve[-1].val_accuracy >= 0.95
    assert [epoch.epoch for epoch in curve] == [1, 2, 3, 4, 5, 6]
    assert all(epoch.train_seconds > 0 and epoch.wall_seconds > 0 for epoch in curve)


def test_the_same_spec_gives_the_same_curve_bit_for_bit(digits):
    one, two = train(digits), train(digits)
    assert scores(one) == scores(two)
    assert scores(one) != scores(train(digits, dataclasses.replace(SPEC, seed=8)))


def test_breaking_off_early_gives_the_beginning_of_the_whole(digits):
    model = build(SMALL, digits.input_shape, 10, seed=0)
    generator = epochs(model, digits, SPEC, device=CPU)
    first = []
    for epoch in itertools.islice(generator, 3):
        torch.rand(5)  # whatever else draws random numbers in between
        first.append(epoch)
    assert scores(first) == scores(train(digits))[:3]


def test_training_leaves_torchs_random_state_alone(few):
    before = torch.get_rng_state()
    train(few)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_a_resumed_training_ends_as_if_it_had_never_stopped(few, optimizer):
    spec = dataclasses.replace(SPEC, optimizer=optimizer, momentum=0.9 * (optimizer == "sgd"))
    model, progress = build(SMALL, few.input_shape, 10, seed=0), Progress()
    next(epochs(model, few, spec, device=CPU, progress=progress))
    again = build(SMALL, few.input_shape, 10, seed=1)
    again.load_state_dict(model.state_dict())
    rest = list(epochs(again, few, spec, device=CPU, progress=progress))
    assert scores(rest) == scores(train(few, spec))[1:]
    assert progress.epoch == spec.epochs


@pytest.mark.parametrize(
    ("batch_size", "steps", "size"), [(64, 3, 64), (200, 1, 200), (999, 1, 200)]
)
def test_a_partial_last_batch_is_left_out_unless_it_is_all(few, batch_size, steps, size):
    batches = Batches(few, dataclasses.replace(SPEC, batch_size=batch_size))
    orders = [batches.shuffle(epoch).order for epoch in (1, 2)]
    assert orders[0].shape == (steps, size)
    assert len(set(orders[0].flatten().tolist())) == steps * size
    assert not torch.equal(*orders)


def test_a_batch_of_one_trains_with_batch_norm(few):
    one = dataclasses.replace(
        few, train_images=few.train_images[:1], train_labels=few.train_labels[:1]
    )
    assert math.isfinite(train(one, dataclasses.replace(SPEC, shift=0))[-1].train_loss)


def test_shifts_are_exact_cover_the_range_and_bring_in_the_background(few):
    shuffled = Batches(few, dataclasses.replace(SPEC, shift=2)).shuffle(1)
    images, labels = shuffled.batch(0)
    order = shuffled.order[0]
    assert torch.equal(labels, few.train_labels[order])
    scaler = Scaler(few.mean, few.std, width=8, device=CPU)
    seen = set()
    for image, index in zip(images, order.tolist(), strict=True):
        padded = np.pad(few.train_images[index, 0].numpy(), 2)
        windows = {
            (down, right): scaler(
                torch.tensor(padded[down : down + 8, right : right + 8])[None, None]
            )
            for down in range(5)
            for right in range(5)
        }
        matches = {place for place, window in windows.items() if torch.equal(window[0], image)}
        assert matches
        seen |= matches
    assert {down for down, _ in seen} == {right for _, right in seen} == set(range(5))


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 9, 12)])
def test_images_come_back_scaled_when_nothing_is_augmented(channels, height, width):
    raw = np.random.default_rng(0).integers(0, 256, (20, height, width, channels), dtype=np.uint8)
    mean, std = (0.1, 0.2, 0.3)[:channels], (0.4, 0.5, 0.6)[:channels]
    index = np.arange(20)
    data = tensors(raw, index % 4, index, index, mean=mean, std=std, classes=4, device="cpu")
    shuffled = Batches(data, dataclasses.replace(SPEC, batch_size=20, shift=0)).shuffle(1)
    images, _ = shuffled.batch(0)
    expected = (raw[shuffled.order[0].numpy()] / 255 - mean) / std
    assert data.train_images.is_contiguous(memory_format=torch.channels_last)
    assert images.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(images.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)


def test_images_are_mirrored_only_where_the_study_allows_it(few):
    def mirrored(flip):
        spec = dataclasses.replace(SPEC, shift=0, flip=flip, batch_size=200)
        shuffled = Batches(few, spec).shuffle(1)
        images, _ = shuffled.batch(0)
        plain = Scaler(few.mean, few.std, width=8, device=CPU)(few.train_images)[shuffled.order[0]]
        same = (images == plain).flatten(1).all(1)
        turned = (images == plain.flip(3)).flatten(1).all(1)
        assert (same | turned).all()
        return (~same).float().mean().item()

    assert mirrored(False) == 0
    assert 0.35 < mirrored(True) < 0.65


def test_rotation_turns_oblong_images_without_stretching_them():
    image = torch.zeros(1, 1, 9, 15)
    image[0, 0, 4, 3:12] = 255  # a horizontal bar of 9 pixels through the centre
    upright = rotate(image, torch.tensor([90.0]))
    assert torch.allclose(upright[0, 0, :, 7], torch.full((9,), 255.0), atol=0.1)
    assert upright[..., :7].abs().max() < 0.1
    assert torch.allclose(rotate(image, torch.tensor([0.0])), image, atol=1e-3)


def test_rotated_training_still_learns(digits):
    curve = train(digits, dataclasses.replace(SPEC, rotate=10.0), ModelSpec(widths=(32, 64)))
    assert curve[-1].val_accuracy > 0.9


@pytest.mark.parametrize(
    ("name", "first", "last"), [("constant", 1, 1), ("cosine", 1, 0), ("one-cycle", 0.04, 0)]
)
def test_schedules_start_and_end_where_they_should(name, first, last):
    spec = dataclasses.replace(SPEC, schedule=name, learning_rate=2.0)
    rates = [learning_rate(spec, step, steps=1000) for step in range(1000)]
    assert rates[0] == pytest.approx(2.0 * first)
    assert rates[-1] == pytest.approx(2.0 * last, abs=2e-5)
    assert max(rates) == pytest.approx(2.0)


def test_one_cycle_is_torchs_one_cycle():
    spec = dataclasses.replace(SPEC, schedule="one-cycle", learning_rate=0.5)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.5, total_steps=70, cycle_momentum=False
    )
    for step in range(70):
        ours = learning_rate(spec, step, steps=70)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step
        optimizer.step()
        if step < 69:
            theirs.step()


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["constant", "cosine", "one-cycle"])
def test_schedules_survive_the_shortest_trainings(name, steps):
    spec = dataclasses.replace(SPEC, schedule=name, learning_rate=2.0)
    rates = [learning_rate(spec, step, steps=steps) for step in range(steps)]
    assert all(0 <= rate <= 2.0 for rate in rates)


def test_the_rate_reaches_the_optimizer(few):
    model = build(SMALL, few.input_shape, 10, seed=0)
    optimizer = make_optimizer(model, SPEC, device=CPU)
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125]


def test_a_training_that_diverges_says_when_and_how(few):
    spec = dataclasses.replace(
        SPEC, optimizer="sgd", learning_rate=10.0, schedule="constant", weight_decay=10.0, epochs=50
    )
    with pytest.raises(Diverged, match=r"loss became (nan|inf) in epoch \d+") as caught:
        train(few, spec, ModelSpec(widths=(16, 16), batch_norm=False))
    assert caught.value.epoch >= 1


def test_a_training_stops_within_one_step_when_asked(few):
    asked = []

    def stop():
        asked.append(True)
        return len(asked) == 5

    curve = []
    model = build(SMALL, few.input_shape, 10, seed=0)
    with pytest.raises(Interrupted):
        curve.extend(epochs(model, few, SPEC, device=CPU, stop=stop))
    assert len(asked) == 5


def test_evaluation_counts_every_image_once_and_keeps_no_gradient(few):
    model = build(SMALL, few.input_shape, 10, seed=0)
    loss, accuracy = evaluate(model, few.val_images, few.val_labels, mean=few.mean, std=few.std)
    images = Scaler(few.mean, few.std, width=8, device=CPU)(few.val_images)
    with torch.autocast("cpu", dtype=autocast_dtype(CPU), enabled=autocast_dtype(CPU) is not None):
        logits = model.eval()(images)
    expected = torch.nn.functional.cross_entropy(logits.float(), few.val_labels).item()
    assert loss == pytest.approx(expected, rel=1e-4)
    assert accuracy == (logits.argmax(1) == few.val_labels).sum().item() / 50
