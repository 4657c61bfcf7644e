"""Costs of a network, known before training."""

import torch

from hpsearch.core.spec import ModelSpec
from hpsearch.nn.models.cnn import build
from hpsearch.nn.models.cost import count, measure

CPU = torch.device("cpu")


def cost_of(spec, shape, classes):
    cost = measure(build(spec, shape, classes, seed=0), shape, device=CPU)
    assert {key: cost[key] for key in ("params", "flops")} == count(spec, shape, classes)
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
    measure(model, (1, 8, 8), device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
