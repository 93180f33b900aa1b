import copy

import pytest
import torch
from torch import nn
from toy_generators import toy_config

from research.tiny.simulator.loop import make_optimizer
from research.tiny.simulator.muon import Muon, with_equal_singular_values

RATE = 0.01


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(4, 8, 3), nn.SiLU(), nn.Conv3d(8, 8, 3), nn.Conv3d(8, 8, 3), nn.Conv3d(8, 40, 1))


def step(net, optimizer):
    random = torch.Generator().manual_seed(1)
    net(torch.randn(2, 4, 8, 8, 8, generator=random)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def muon(net, **changes):
    options = toy_config("x", vae={"optimizer": "muon", "learning_rate": RATE, "weight_decay": 0.0, **changes}).vae
    return make_optimizer(net, options, on_gpu=False)


@pytest.mark.parametrize("shape", [(3, 6, 20), (2, 20, 6), (1, 7, 7)])
def test_singular_values_become_about_one_and_directions_stay(shape):
    matrices = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    updates = with_equal_singular_values(matrices)
    for matrix, update in zip(matrices, updates, strict=True):
        values = torch.linalg.svdvals(update)
        assert values.min() > 0.6 and values.max() < 1.3
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        along = (u.mT @ update @ v.mT).diagonal()  # those of the update, in the order of the matrix's
        torch.testing.assert_close(along.sort().values, values.sort().values)


def test_the_first_step_of_a_kernel_is_its_orthogonal_gradient(net):
    before, optimizer = copy.deepcopy(net), muon(net)
    step(net, optimizer)
    for old, new in zip(before, net, strict=True):
        if not isinstance(new, nn.Conv3d):
            continue
        rows = len(new.weight)
        scale = max(1, rows / new.weight[0].numel()) ** 0.5
        values = torch.linalg.svdvals((new.weight - old.weight).flatten(1)) / (RATE * scale)
        assert values[: min(rows, 8) - 1].min() > 0.6 and values.max() < 1.3
        assert (new.bias - old.bias).detach().abs().max() == pytest.approx(0.1 * RATE, rel=1e-2)  # AdamW's first step


def test_kernels_of_one_shape_are_updated_as_each_alone(net):
    """Two kernels of the net are alike; a group for each of the kernels gives the same."""
    alone = copy.deepcopy(net)
    kernels = [module.weight for module in alone if isinstance(module, nn.Conv3d)]
    biases = [module.bias for module in alone if isinstance(module, nn.Conv3d)]
    groups = [{"params": [kernel], "muon": True, "weight_decay": 0.0} for kernel in kernels]
    groups.append({"params": biases, "lr": 0.1 * RATE, "weight_decay": 0.0})
    optimizers = muon(net), Muon(groups, lr=RATE, betas=(0.9, 0.99))
    for _ in range(3):
        for one, optimizer in zip((net, alone), optimizers, strict=True):
            step(one, optimizer)
    for name, value in net.named_parameters():
        torch.testing.assert_close(value, alone.get_parameter(name))


def test_kernels_without_a_gradient_stay(net):
    optimizer = muon(net)
    last = net[-1].weight.detach().clone()
    random = torch.Generator().manual_seed(1)
    net[0](torch.randn(2, 4, 8, 8, 8, generator=random)).square().mean().backward()
    optimizer.step()
    assert torch.equal(net[-1].weight, last) and not optimizer.state[net[-1].weight]


def test_a_reloaded_optimizer_goes_on(net):
    optimizer = muon(net, weight_decay=0.1)
    step(net, optimizer)
    twin = copy.deepcopy(net)
    other = muon(twin, weight_decay=0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, one_optimizer in ((net, optimizer), (twin, other)):
        step(one, one_optimizer)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert net[0].weight.norm() > 0
