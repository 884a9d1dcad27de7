"""The AutoNAD network: sizes, sharing, and subnets taken out of it."""

import dataclasses
import random

import pytest
import torch

from models.autonad import AutoNADNet, Room, extract
from models.hybrid_architecture import EDGE_NAMES
from models.hybrid_space import HybridSpace
from models.sliced import SHARINGS

SPACE = HybridSpace(kernels=(3, 5))
every_sharing = pytest.mark.parametrize("sharing", SHARINGS)


def network_of(space=SPACE, sharing="cross", seed=0, width=32, **options):
    torch.manual_seed(seed)
    network = AutoNADNet(Room.of_space(space), in_channels=2, classes=3, width=width, sharing=sharing, **options)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network.double().eval()


def images(size=(64, 64), count=2):
    return torch.randn(count, 2, *size, dtype=torch.double, generator=torch.Generator().manual_seed(2))


def sampled(seed, space=SPACE):
    return space.sample(random.Random(seed))


@pytest.mark.parametrize("size", [(64, 64), (65, 100), (200, 50), (33, 33)])
def test_logits_have_the_size_of_the_images_whatever_it_is(size):
    network = network_of()
    assert network(images(size), sampled(0)).shape == (2, 4, *size)


def test_stages_have_the_published_strides_and_the_chosen_widths():
    architecture = sampled(1)
    maps = network_of().features(images((128, 64)), architecture)
    assert [tuple(m.shape) for m in maps] == [
        (2, 128 // s, 64 // s, w) for s, w in zip((4, 8, 16, 32), architecture.widths, strict=True)
    ]


@every_sharing
@pytest.mark.parametrize("seed", range(4))
def test_an_extracted_subnet_computes_what_the_supernet_does(sharing, seed):
    network, architecture = network_of(sharing=sharing), sampled(seed)
    plain = extract(network, architecture)
    with torch.no_grad():
        torch.testing.assert_close(
            plain(images((64, 96)), architecture), network(images((64, 96)), architecture), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("seed", range(4))
def test_an_extracted_subnet_has_just_the_parameters_that_are_used(seed):
    network, architecture = network_of(), sampled(seed)
    plain = extract(network, architecture)
    plain(images(), architecture).square().sum().backward()
    unused = [name for name, p in plain.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # Attention does not depend on the key's bias: it adds the same to every score of a query.
    assert all(name.endswith("key.bias") for name in unused)
    network(images(), architecture).square().sum().backward()
    touched = sum(int((p.grad != 0).sum()) for p in network.parameters() if p.grad is not None)
    assert touched <= sum(p.numel() for p in plain.parameters())


@every_sharing
def test_who_shares_weights(sharing):
    network = network_of(sharing=sharing)
    place = network.stages[1][0]
    wide, narrow = (96, "mlp", 8.0, 0), (32, "mlp", 8.0, 0)
    other = (96, "attention", 8.0, 0)
    assert (place.of(wide) is place.of(narrow)) == (sharing != "classical")
    assert (place.of(wide) is place.of(other)) == (sharing == "cross")


def test_cross_sharing_stores_the_least_and_classical_the_most():
    counts = {}
    for sharing in SHARINGS:
        network = AutoNADNet(Room.of_space(HybridSpace()), in_channels=3, classes=3, sharing=sharing)
        counts[sharing] = sum(parameter.numel() for parameter in network.parameters())
    assert counts["cross"] < counts["entangled"] < counts["classical"]


def test_the_architecture_leaves_nothing_behind_in_the_network():
    network, first, second = network_of(), sampled(5), sampled(6)
    before = network(images(), first)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    network(images(), second)
    assert torch.equal(network(images(), first), before)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_images_of_a_batch_do_not_touch_each_other():
    network, architecture = network_of(), sampled(2)
    together, alone = network(images(), architecture), network(images()[:1], architecture)
    torch.testing.assert_close(together[:1], alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("index", range(len(EDGE_NAMES)))
def test_every_edge_changes_the_result(index):
    network, architecture = network_of(), sampled(7)
    # On a map of one pixel all centres of a kernel are the same.
    architecture = dataclasses.replace(architecture, pools=(3, 4, 5, 6))
    results = []
    for operator in SPACE.edge_operators:
        edges = (*architecture.edges[:index], operator, *architecture.edges[index + 1 :])
        changed = dataclasses.replace(architecture, edges=edges)
        results.append(network(images((128, 128)), changed))
    assert len({tuple(r.flatten()[:64].tolist()) for r in results}) == len(results)


def test_bfloat16_and_channels_last_input_work():
    network, architecture = network_of().float(), sampled(3)
    x = images().float()
    with torch.autocast("cpu", torch.bfloat16):
        assert network(x, architecture).isfinite().all()
    laid_out = network(x.contiguous(memory_format=torch.channels_last), architecture)
    torch.testing.assert_close(laid_out, network(x, architecture), rtol=1e-4, atol=1e-5)


def test_an_unknown_sharing_is_refused():
    with pytest.raises(ValueError, match="allowed are cross, entangled, classical"):
        network_of(sharing="none")
