"""Training of the supernet: rates, sampled subnets, accumulation, and groups of processes."""

import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.autonad import AutoNADNet, Room
from models.hybrid_space import HybridSpace
from search.hybrid_settings import HYBRID_BUDGETS, SupernetSettings, space_of
from search.one_shot import learning_rate, optimizer_of, probe_subnets, sampled_subnet, subnet_step
from search.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SPACE = HybridSpace(widths=((32,), (32, 64), (64,), (64,)), depths=((1, 2),) * 4, ratios=((2.0,),) * 4)


def network_of(seed=0):
    torch.manual_seed(seed)
    return AutoNADNet(Room.of_space(SPACE), in_channels=1, classes=2, width=32, drop_path=0.0)


def batch_of(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 32, 32, generator=generator)
    return images, torch.randint(0, 3, (count, 32, 32), generator=generator)


def test_the_rate_is_used_as_given_and_scaled_only_when_asked():
    settings = SupernetSettings(epochs=100, warmup_epochs=10, lr=5e-4, batch=64)
    rates = [learning_rate(settings, epoch) for epoch in range(100)]
    assert max(rates) == pytest.approx(5e-4)
    assert rates.index(max(rates)) == 10
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 1e-6
    scaled = SupernetSettings(epochs=100, warmup_epochs=10, lr=5e-4, batch=64, linear_scaling=True)
    assert learning_rate(scaled, 10) == pytest.approx(8 * 5e-4)


def test_a_warm_up_longer_than_the_training_leaves_one_epoch_at_the_full_rate():
    settings = SupernetSettings(epochs=3, warmup_epochs=20, lr=1.0)
    assert learning_rate(settings, 2) == 1.0


def test_norms_and_biases_do_not_decay():
    groups = optimizer_of(network_of(), SupernetSettings(weight_decay=0.05)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert all(p.dim() > 1 for p in groups[0]["params"])
    assert all(p.dim() <= 1 for p in groups[1]["params"])


def test_subnets_are_a_function_of_seed_epoch_and_step():
    drawn = [sampled_subnet(SPACE, 1, epoch, step).digest() for epoch in range(3) for step in range(20)]
    assert drawn == [sampled_subnet(SPACE, 1, epoch, step).digest() for epoch in range(3) for step in range(20)]
    assert len(set(drawn)) > 50
    assert sampled_subnet(SPACE, 2, 0, 0) != sampled_subnet(SPACE, 1, 0, 0)


def test_probes_are_fixed_and_hold_both_ends():
    probes = probe_subnets(SPACE, 3, seed=4)
    assert probes == probe_subnets(SPACE, 3, seed=4)
    assert probes[:2] == [SPACE.smallest(), SPACE.largest()]


def test_a_step_moves_what_the_subnet_uses_and_nothing_else():
    network, small = network_of(), SPACE.smallest()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    subnet_step(network, small, optimizer_of(network, SupernetSettings()), batch_of())
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("stages.0.0.") for name in moved)
    assert not any(name.startswith("stages.0.1.") for name in moved)  # the second block, which it does not have
    unused = {"convolution": "mix", "mlp": "squeeze"}
    assert not any(part in name for name in moved for part in unused.values())


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_gives_the_gradient_of_the_whole(parts):
    architecture, states = SPACE.sample(random.Random(3)), []
    for accumulate in (1, parts):
        network = network_of().double()
        images, masks = batch_of()
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        loss = subnet_step(network, architecture, optimizer, (images.double(), masks), accumulate=accumulate)
        states.append((loss, network.state_dict()))
    torch.testing.assert_close(states[0][0], states[1][0])
    for name, value in states[0][1].items():
        torch.testing.assert_close(value, states[1][1][name], rtol=1e-9, atol=1e-11)


def test_training_on_one_batch_learns_it():
    network, architecture = network_of(), SPACE.largest()
    optimizer = optimizer_of(network, SupernetSettings(lr=3e-3))
    images, _ = batch_of(2)
    masks = (images[:, 0] > 0.5).long()
    losses = [float(subnet_step(network, architecture, optimizer, (images, masks), clip=5.0)) for _ in range(60)]
    assert losses[-1] < 0.6 * losses[0]


def test_two_processes_with_half_the_batch_equal_one_with_the_whole(tmp_path):
    found = {}
    for world in (1, 2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        script = ROOT / "tests" / "doubles" / "ddp_steps.py"
        outs = [tmp_path / f"{world}-{rank}.safetensors" for rank in range(world)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [
            [sys.executable, str(script), str(r), str(world), str(port), str(o), "50"] for r, o in enumerate(outs)
        ]
        processes = [subprocess.Popen(c, env=environment) for c in command]
        assert [process.wait(200) for process in processes] == [0] * world
        found[world] = [load_file(out) for out in outs]
    first, second = found[2]
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    for name, value in found[1][0].items():
        torch.testing.assert_close(value, first[name], rtol=0, atol=1e-5, msg=name)


def test_every_budget_makes_a_space():
    for sections in HYBRID_BUDGETS.values():
        settings = Settings.from_dict(sections)
        assert space_of(settings.space).size > 1000
