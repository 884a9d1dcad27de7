"""Checkpoints: round trips, damage, other configurations."""

import pytest
import torch

from search.checkpoint import (
    CheckpointDamaged,
    CheckpointMismatch,
    load_checkpoint,
    pack_optimizer,
    save_checkpoint,
    unpack_optimizer,
)

TENSORS = {"a": torch.arange(6).view(2, 3), "b": torch.tensor(1.5)}


def write(folder, steps, digest="d"):
    for step in steps:
        save_checkpoint(folder, "search", step, TENSORS, {"digest": digest, "epoch": step})


def test_round_trip_keeps_the_two_newest(tmp_path):
    write(tmp_path, [1, 2, 3])
    save_checkpoint(tmp_path, "search-more", 9, TENSORS, {"digest": "d"})
    found = load_checkpoint(tmp_path, "search", "d")
    assert (found.step, found.state["epoch"], found.damaged) == (3, 3, ())
    assert all(torch.equal(found.tensors[k], v) for k, v in TENSORS.items())
    assert sorted(p.name for p in tmp_path.glob("search-0*")) == [
        f"search-{step:08d}.{suffix}" for step in (2, 3) for suffix in ("json", "safetensors")
    ]


def test_none_where_nothing_was_saved(tmp_path):
    assert load_checkpoint(tmp_path, "search", "d") is None


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("safetensors", "truncate"),
        ("safetensors", "flip"),
        ("safetensors", "remove"),
        ("json", "truncate"),
        ("json", "flip"),
    ],
)
def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(tmp_path, suffix, damage):
    write(tmp_path, [1, 2])
    path = tmp_path / f"search-00000002.{suffix}"
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        place = data.rfind(b"2") if suffix == "json" else len(data) - 3
        data[place] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    found = load_checkpoint(tmp_path, "search", "d")
    assert found.step == 1
    assert "search-00000002" in found.damaged[0]


def test_nothing_whole_is_an_error_that_names_the_file(tmp_path):
    write(tmp_path, [1])
    (tmp_path / "search-00000001.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointDamaged, match=r"search-00000001.*remove"):
        load_checkpoint(tmp_path, "search", "d")


def test_another_configuration_is_refused(tmp_path):
    write(tmp_path, [1])
    with pytest.raises(CheckpointMismatch, match="another configuration"):
        load_checkpoint(tmp_path, "search", "other")


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_an_optimizer_goes_on_bit_for_bit(tmp_path, kind):
    def make():
        parameter = torch.nn.Parameter(torch.ones(3))
        options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        return parameter, kind([parameter], lr=0.1, **options)

    def step(parameter, optimizer):
        optimizer.zero_grad()
        (parameter**3).sum().backward()
        optimizer.step()

    parameter, optimizer = make()
    step(parameter, optimizer)
    save_checkpoint(tmp_path, "o", 1, pack_optimizer("o", optimizer) | {"p": parameter}, {"digest": "d"})
    step(parameter, optimizer)

    again, optimizer_again = make()
    found = load_checkpoint(tmp_path, "o", "d")
    with torch.no_grad():
        again.copy_(found.tensors["p"])
    unpack_optimizer("o", found.tensors, optimizer_again)
    step(again, optimizer_again)
    assert torch.equal(again, parameter)
