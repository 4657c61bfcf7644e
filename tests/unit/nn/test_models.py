"""Networks built from a spec: shapes, sizes, names, initial weights and costs."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from hpsearch.core.spec import ModelSpec
from hpsearch.errors import DataError
from hpsearch.nn.models import build, count_costs, measure_costs

CPU = torch.device("cpu")


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_reference_net_has_exactly_147_087_parameters():
    assert count(build(ModelSpec(widths=(32, 64, 128)), (1, 28, 28), 47)) == 147_087


@pytest.mark.parametrize("head", ["flatten", "gap"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13), (5, 64, 8)])
def test_every_depth_is_possible_on_every_image(shape, head):
    for depth in (1, 4, 12):
        model = build(ModelSpec(widths=(4,) * depth, head=head), shape, 7).train()
        assert model(torch.randn(1, *shape)).shape == (1, 7)


@pytest.mark.parametrize(
    ("kernel_size", "batch_norm"), list(itertools.product([1, 3, 5, 7], [False, True]))
)
def test_kernels_keep_the_side_and_norms_replace_biases(kernel_size, batch_norm):
    spec = ModelSpec(widths=(4, 8), kernel_size=kernel_size, batch_norm=batch_norm)
    model = build(spec, (1, 8, 8), 3)
    assert (model.blocks[0].conv.bias is None) == batch_norm
    assert model.linear.in_features == 8 * 2 * 2
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 3)


def test_state_dict_names_say_where_a_weight_belongs():
    names = set(build(ModelSpec(widths=(4,)), (1, 8, 8), 3).state_dict())
    assert names == {
        "blocks.0.conv.weight",
        "blocks.0.norm.weight",
        "blocks.0.norm.bias",
        "blocks.0.norm.running_mean",
        "blocks.0.norm.running_var",
        "blocks.0.norm.num_batches_tracked",
        "linear.weight",
        "linear.bias",
    }


def test_pooling_before_the_relu_changes_nothing():
    model = build(ModelSpec(widths=(4, 8)), (1, 12, 12), 3, seed=0).train()
    images = torch.randn(5, 1, 12, 12)
    x = images
    for block in model.blocks:
        x = F.max_pool2d(F.relu(block.norm(block.conv(x))), 2)
    expected = model.linear(x.flatten(1))
    assert torch.equal(model(images), expected)


def test_a_seed_fixes_the_weights_and_leaves_torchs_own_state_alone():
    spec = ModelSpec(widths=(4,))
    before = torch.get_rng_state()
    one, two, other = (build(spec, (1, 8, 8), 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.linear.weight, two.linear.weight)
    assert not torch.equal(one.linear.weight, other.linear.weight)


def test_dropout_stands_before_the_linear_layer():
    model = build(ModelSpec(widths=(4,), dropout=0.9), (1, 8, 8), 3, seed=0)
    images = torch.randn(2, 1, 8, 8)
    assert not torch.equal(model.train()(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


def test_images_below_8_by_8_are_refused():
    with pytest.raises(DataError, match="found 28×7 pixels, expected at least 8×8"):
        build(ModelSpec(widths=(4,)), (1, 28, 7), 3)


def cost_of(spec, shape, classes):
    cost = measure_costs(build(spec, shape, classes, seed=0), shape, device=CPU)
    assert {key: cost[key] for key in ("params", "flops")} == count_costs(spec, shape, classes)
    return cost


def test_costs_of_a_net_worked_out_by_hand():
    cost = cost_of(ModelSpec(widths=(4,), batch_norm=False), (1, 8, 8), 10)
    assert cost["params"] == (9 * 4 + 4) + (4 * 4 * 4 * 10 + 10)
    assert cost["flops"] == 2 * (8 * 8 * 9 * 4 + 64 * 10)
    assert 0 < cost["latency_ms"] < 1000


def test_the_reference_net_costs_what_its_layers_cost():
    cost = cost_of(ModelSpec(widths=(32, 64, 128)), (1, 28, 28), 47)
    macs = 784 * 9 * 32 + 196 * 32 * 9 * 64 + 49 * 64 * 9 * 128 + 1152 * 47
    assert (cost["params"], cost["flops"]) == (147_087, 2 * macs)


def test_measuring_leaves_the_weights_and_torchs_random_state_alone():
    model = build(ModelSpec(widths=(4,), dropout=0.5), (1, 8, 8), 3, seed=0)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = torch.get_rng_state()
    measure_costs(model, (1, 8, 8), device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
