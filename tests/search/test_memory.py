"""What a step keeps is known before it runs, and a form that does not fit is not tried."""

import dataclasses
import json
import re

import pytest
import torch

from search import stage
from search.context import Context
from search.data.pack import build_pack
from search.data.readers import open_dataset
from search.data.synthetic import write_dataset
from search.ledger import Ledger
from search.memory import OutOfMemory, free_memory, kept_for_backward
from search.settings import DataSettings, NetworkSettings, RuntimeSettings, SearchSettings, Settings

MIB = 2**20


def test_counts_each_storage_once_and_allocates_nothing():
    def build():
        x = torch.randn(2**10, 2**20, requires_grad=True)  # 4 GiB, never there
        y = torch.randn(2**10, 2**20)
        return lambda: x * y * y  # keeps y, for both products

    assert kept_for_backward(build) == 2**32


def test_free_memory_of_this_machine_is_a_number_of_bytes():
    free = free_memory(torch.device("cpu"))
    assert free is None or 0 < free < 2**50


@pytest.fixture
def context(tmp_path):
    settings = Settings(
        data=DataSettings(image_size=64),
        network=NetworkSettings(channels=4, operators=("zero", "identity", "sep_conv_3x3")),
        search=SearchSettings(keep=(1,), batch=4),
        runtime=RuntimeSettings(threads=1, device="cpu", form="auto", channels_last="off"),
    )
    write_dataset(tmp_path / "images", images=8, size=64, seed=0)
    pack = build_pack(open_dataset(tmp_path / "images"), settings.data, 0, tmp_path / "packs")
    return Context(
        folder=tmp_path,
        settings=settings,
        pack=pack,
        device=torch.device("cpu"),
        threads=1,
        ledger=Ledger(tmp_path / "ledger.jsonl"),
        forms=tmp_path / "forms.json",
    )


def with_form(context, form):
    runtime = dataclasses.replace(context.settings.runtime, form=form)
    return dataclasses.replace(context, settings=dataclasses.replace(context.settings, runtime=runtime))


def test_a_form_that_does_not_fit_is_not_timed(context, monkeypatch):
    # Batched edges keep less than plain ones: a limit between the two leaves the one.
    refused = {}
    for form in ("batched", "plain"):
        monkeypatch.setattr(stage, "free_memory", lambda device: 1)
        with pytest.raises(OutOfMemory) as caught:
            stage.resume_stage(with_form(context, form))
        refused[form] = float(re.search(r"needs about ([0-9.]+) MiB", str(caught.value))[1])
    assert refused["batched"] < refused["plain"]
    between = (refused["batched"] + refused["plain"]) / 2 * MIB
    monkeypatch.setattr(stage, "free_memory", lambda device: between)
    assert stage.resume_stage(context)[0].form.edges == "batched"
    (decision,) = json.loads(context.forms.read_text()).values()
    assert list(decision["seconds"]) == ["batched,False"]


def test_a_network_that_cannot_fit_is_refused_with_the_batch_that_would(context, monkeypatch):
    monkeypatch.setattr(stage, "free_memory", lambda device: 20 * MIB)
    with pytest.raises(OutOfMemory, match=r"image_size 64 with search\.batch 4: .* search\.batch 2 would fit"):
        stage.resume_stage(with_form(context, "batched"))
