"""A training that diverges ends with one line that says where and what to change; no checkpoint or result of it."""

import dataclasses
import json

import pytest
import torch

from search.data.pack import build_pack
from search.data.readers import open_dataset
from search.data.synthetic import write_dataset
from search.divergence import Diverged, check_finite
from search.finetune import run_job
from search.hybrid_settings import FinetuneSettings, SpaceSettings, SupernetSettings, space_of
from search.ledger import read_events
from search.one_shot import train_supernet
from search.settings import (
    DataSettings,
    NetworkSettings,
    RetrainSettings,
    RuntimeSettings,
    SearchSettings,
    Settings,
)
from search.trial import open_context, read_trial, run_trial

WILD = 1e30
TINY = Settings(
    data=DataSettings(image_size=32),
    network=NetworkSettings(channels=4, operators=("zero", "identity", "sep_conv_3x3")),
    search=SearchSettings(keep=(2, 1), epochs=2, warmup_epochs=1, batch=4, steps=2, clip=0),
    retrain=RetrainSettings(epochs=2, steps=2, clip=0),
    space=SpaceSettings(
        widths=((32,), (32,), (32,), (32,)), depths=((1,),) * 4, ratios=((2.0,),) * 4, decoder_width=32
    ),
    supernet=SupernetSettings(epochs=2, warmup_epochs=0, batch=4, steps=2, probes=0, clip=0),
    finetune=FinetuneSettings(epochs=2, steps=2, batch=4, inherit=False),
    runtime=RuntimeSettings(threads=1, device="cpu", form="batched", channels_last="off"),
)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    data = write_dataset(folder / "images", images=16, size=32, seed=0)
    return str(build_pack(open_dataset(data), TINY.data, 0, folder / "packs").folder)


@pytest.fixture
def make_trial(tmp_path, pack):
    """Write the trial of a method with some settings of one section replaced; its folder."""

    def make(method, section, **values):
        changed = dataclasses.replace(TINY, **{section: dataclasses.replace(getattr(TINY, section), **values)})
        trial = {"method": method, "name": "images", "pack": pack, "settings": changed.to_dict()}
        (tmp_path / "trial.json").write_text(json.dumps(trial))
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("method", "section", "key", "message"),
    [
        ("asdet", "search", "weight_lr", r"^search: stage 1, epoch 1: .* is (nan|inf); lower search.weight_lr"),
        ("asdet", "search", "alpha_lr", r"^search: stage 1, epoch 2: .* is (nan|inf); lower search.weight_lr or sea"),
        ("random", "retrain", "lr", r"^retraining: epoch 1: the loss is (nan|inf); lower retrain.lr"),
    ],
)
def test_a_trial_that_diverges_fails_and_says_why(make_trial, method, section, key, message):
    folder = make_trial(method, section, **{key: 1e37 if key == "alpha_lr" else WILD})
    with pytest.raises(Diverged, match=message):
        run_trial(folder)
    assert not (folder / "metrics.json").exists()
    assert "NaN" not in (folder / "ledger.jsonl").read_text()
    assert not any(event["event"] == "finished" for event in read_events(folder / "ledger.jsonl"))


def test_a_supernet_that_diverges_fails(make_trial):
    folder = make_trial("autonad", "supernet", lr=WILD)
    with pytest.raises(Diverged, match=r"^supernet: epoch 1: the loss is (nan|inf); lower supernet.lr"):
        train_supernet(open_context(folder, read_trial(folder), None))
    assert not (folder / "checkpoint").exists()


def test_a_finalist_that_diverges_fails(make_trial, tmp_path):
    trial = make_trial("autonad", "finetune", lr=WILD)
    folder = tmp_path / "finalist"
    folder.mkdir()
    architecture = space_of(TINY.space).smallest().to_dict()
    (folder / "job.json").write_text(json.dumps({"architecture": architecture, "seed": 0}))
    with pytest.raises(Diverged, match=r"^finetuning: epoch 1: the loss is (nan|inf); lower finetune.lr"):
        run_job(folder, trial, dict)
    assert not (folder / "checkpoint").exists()


def test_weights_that_the_last_step_spoils_are_found_without_a_loss_that_tells():
    weights = [torch.ones(3), torch.ones(2, 2)]
    check_finite("here", [torch.tensor(1.0)], weights, "less")
    weights[1][0, 0] = float("inf")
    with pytest.raises(Diverged, match=r"^here: the norm of what is trained is inf; less$"):
        check_finite("here", [torch.tensor(1.0)], weights, "less")
