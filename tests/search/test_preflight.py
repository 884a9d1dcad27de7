"""Before a supernet is trained: what does not fit is said with what would, a group that disagrees does not begin."""

import dataclasses
import re
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from search import preflight
from search.checkpoint import CheckpointDamaged, CheckpointMismatch
from search.context import Context
from search.data.pack import build_pack
from search.data.readers import open_dataset
from search.data.synthetic import write_dataset
from search.finetune import plain_network
from search.hybrid_settings import SpaceSettings, SupernetSettings, space_of
from search.hybrid_workers import SUPERNET, load_weights, save_weights
from search.ledger import Ledger
from search.memory import OutOfMemory, kept_for_backward
from search.one_shot import new_supernet
from search.preflight import (
    RanksDisagree,
    agree,
    check_memory,
    check_supernet,
    digest_of_weights,
    largest_subnets,
    step_memory,
)
from search.settings import DataSettings, Settings

DOUBLE = Path(__file__).parents[1] / "doubles" / "disagreeing_ranks.py"
MIB = 2**20


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preflight")
    settings = Settings(
        data=DataSettings(image_size=32, task="multiclass"),
        space=SpaceSettings(
            widths=((32,), (32, 64), (64,), (64,)), depths=((1, 2),) * 4, ratios=((2.0,),) * 4, decoder_width=32
        ),
        supernet=SupernetSettings(batch=64),
    )
    write_dataset(folder / "images", images=8, size=64, seed=0)
    pack = build_pack(open_dataset(folder / "images"), settings.data, 0, folder / "packs")
    return Context(
        folder=folder,
        settings=settings,
        pack=pack,
        device=torch.device("cpu"),
        threads=1,
        ledger=Ledger(folder / "ledger.jsonl"),
        forms=folder / "forms.json",
    )


def test_what_is_said_to_fit_fits_and_one_tile_more_does_not(context, monkeypatch):
    accumulate, network, subnets = 2, new_supernet(context), [space_of(context.settings.space).largest()]
    monkeypatch.setattr(preflight, "free_memory", lambda device: 60 * MIB)

    def check(batch, parts=accumulate):
        check_memory(context, step_memory(context, subnets), network, "supernet", batch, parts)

    with pytest.raises(OutOfMemory, match=r"data.image_size 32 with supernet.batch 512: .* 60 MiB are free") as refused:
        check(512)
    batch, parts = map(
        int, re.search(r"supernet.batch (\d+) would fit, or supernet.accumulate (\d+)", str(refused.value)).groups()
    )
    check(batch)
    check(512, parts)
    with pytest.raises(OutOfMemory):
        check(batch + accumulate)
    with pytest.raises(OutOfMemory):
        check(512, parts - 1)


def test_where_nothing_fits_that_is_said(context, monkeypatch):
    monkeypatch.setattr(preflight, "free_memory", lambda device: MIB)
    with pytest.raises(OutOfMemory, match="not even one tile at a time fits"):
        check_supernet(context, new_supernet(context), space_of(context.settings.space), 0)


def test_a_system_that_tells_no_memory_refuses_nothing(context, monkeypatch):
    monkeypatch.setattr(preflight, "free_memory", lambda device: None)
    check_memory(context, (10**9, 10**9), new_supernet(context), "supernet", 10**9)


def test_what_is_kept_is_the_same_on_the_meta_device_as_of_fake_tensors(context):
    architecture = space_of(context.settings.space).largest()
    images = torch.empty(2, 1, 32, 32, device="meta")
    with torch.device("meta"):
        network = plain_network(context, architecture)
    build = partial(partial, network, images, architecture)
    assert kept_for_backward(build, fake=False) == kept_for_backward(build) > images.nbytes


def test_every_block_operator_has_a_largest_subnet(context):
    space = space_of(context.settings.space)
    subnets = largest_subnets(space)
    assert len(subnets) == len(space.blocks)
    for architecture, (operator, _) in zip(subnets, space.blocks, strict=True):
        assert {b.operator for stage in architecture.stages for b in stage.blocks} == {operator}
        assert [len(stage.blocks) for stage in architecture.stages] == [2] * 4


def test_who_disagrees_about_what_is_named():
    same = {"settings": "a" * 64, "epoch": "3"}
    agree([same, same, same])
    with pytest.raises(RanksDisagree, match=r"worker 2 .* with worker 0 in epoch: 4, not 3"):
        agree([same, same, {**same, "epoch": "4"}])


def test_a_digest_of_weights_sees_one_bit(context):
    network = new_supernet(context)
    before = digest_of_weights(network)
    assert digest_of_weights(new_supernet(context)) == before
    with torch.no_grad():
        next(iter(network.parameters())).view(torch.int32).flatten()[0] ^= 1
    assert digest_of_weights(network) != before


def test_all_processes_of_a_group_raise_the_same_or_none():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    topics = ("none", "settings", "weights", "memory")
    members = [
        subprocess.Popen([sys.executable, DOUBLE, rank, port, *topics], stdout=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    said = [member.communicate(timeout=300)[0].splitlines() for member in members]
    assert said[0] == said[1]
    nothing, settings, weights, memory = said[0]
    assert nothing == "agreed"
    assert settings.startswith("worker 1 of the group disagrees with worker 0 in settings: ")
    assert weights.startswith("worker 1 of the group disagrees with worker 0 in weights: ")
    assert memory.startswith("worker 1: data.image_size 32 with supernet.batch 8: a training step needs")


def test_a_supernet_of_another_space_or_cut_short_is_refused(context):
    save_weights(context, new_supernet(context))
    assert load_weights(context).keys() == new_supernet(context).state_dict().keys()
    other = dataclasses.replace(context.settings.space, decoder_width=64)
    stranger = dataclasses.replace(context, settings=dataclasses.replace(context.settings, space=other))
    with pytest.raises(CheckpointMismatch, match="in another space or with other settings"):
        load_weights(stranger)
    path = context.folder / SUPERNET
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointDamaged, match=r"supernet\.safetensors: damaged"):
        load_weights(context)
