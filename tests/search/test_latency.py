"""Timing with a fake clock, conditions as values, and Kendall's tau against scipy."""

import dataclasses
import json
import math
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau
from torch import nn

import search.latency
from models.autonad import AutoNADNet, Room, extract
from models.hybrid_space import HybridSpace
from search.errors import InputError
from search.latency import (
    Conditions,
    ConditionsDiffer,
    InvalidConditions,
    InvalidRepeats,
    Latency,
    LatencyRecord,
    NotPlain,
    conditions_here,
    kendall_tau,
    measure,
    measure_architecture,
)

CPU = torch.device("cpu")
CONDITIONS = Conditions("cuda", "NVIDIA X", 0, "2.11.0+cu128", (3, 224, 200), 1, "float32")
TINY = HybridSpace(
    widths=((32,),) * 4, depths=((1, 2),) * 4, ratios=((1.0, 2.0),) * 4, edge_operators=("conv1x1", "depthwise3x3")
)


@pytest.fixture
def events(monkeypatch):
    """What happened, in order; a clock whose repeats take 1, 2, 3... ms; and CUDA that is only written down."""
    happened, readings = [], iter(np.cumsum([0.0, *(x for k in range(1, 99) for x in (k / 1e3, 5.0))]).tolist())

    def now():
        happened.append("clock")
        return next(readings)

    monkeypatch.setattr(search.latency, "time", types.SimpleNamespace(perf_counter=now))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: happened.append("wait"))
    return happened


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_measure_runs_warmup_and_repeats_and_waits_for_a_gpu(events, device):
    def run():
        assert torch.is_inference_mode_enabled()
        events.append("run")

    found = measure(run, torch.device(device), warmup=2, repeats=5)
    wait = ["wait"] if device == "cuda" else []
    assert events == ["run"] * 2 + [*wait, "clock", "run", *wait, "clock"] * 5
    assert found.median_ms == pytest.approx(3)
    assert found.iqr_ms == pytest.approx(2)
    assert found.runs == 5
    assert not torch.is_inference_mode_enabled()


def test_the_median_ignores_one_slow_repeat(monkeypatch):
    readings = iter([0, 1, 0, 1, 0, 900, 0, 1, 0, 1])
    monkeypatch.setattr(search.latency, "time", types.SimpleNamespace(perf_counter=lambda: next(readings)))
    assert measure(lambda: None, CPU, warmup=0, repeats=5) == Latency(1e3, 0.0, 5)


@pytest.mark.parametrize(("warmup", "repeats"), [(-1, 1), (0, 0)])
def test_counts_that_measure_nothing_are_refused(warmup, repeats):
    with pytest.raises(InvalidRepeats, match="at least 0 and 1"):
        measure(lambda: None, CPU, warmup=warmup, repeats=repeats)


class Watched(nn.Module):
    """Notes how it is called."""

    def __init__(self):
        super().__init__()
        self.layer, self.frozen, self.calls = nn.Linear(4, 4), nn.Dropout(), []

    def forward(self, images, architecture):
        self.calls.append((images.data_ptr(), tuple(images.shape), self.layer.training, self.layer(images).dtype))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_input_is_made_once_and_the_network_evaluated(precision):
    network = Watched()
    network.frozen.eval()
    conditions = conditions_here(CPU, (3, 5, 4), 2, precision)
    state = torch.get_rng_state()
    record = measure_architecture(network, TINY.smallest(), conditions, CPU, warmup=1, repeats=3)
    assert torch.equal(state, torch.get_rng_state())
    assert record.architecture == TINY.smallest()
    assert len(network.calls) == 4
    assert len(set(network.calls)) == 1
    assert network.calls[0][1:] == ((2, 3, 5, 4), False, getattr(torch, precision))
    assert network.training
    assert network.layer.training
    assert not network.frozen.training


def test_modes_come_back_when_the_network_fails():
    class Failing(nn.Module):
        def forward(self, images, architecture):
            raise RuntimeError("no")

    network = Failing()
    with pytest.raises(RuntimeError, match="no"):
        measure_architecture(
            network, TINY.smallest(), conditions_here(CPU, (3, 8, 8), 1, "float32"), CPU, warmup=0, repeats=1
        )
    assert network.training


@pytest.mark.parametrize("training", [True, False])
def test_an_extracted_network_is_timed(training):
    supernet = AutoNADNet(Room.of_space(TINY), in_channels=3, classes=2, width=16).train(training)
    architecture = TINY.largest()
    network = extract(supernet, architecture)
    conditions = conditions_here(CPU, (3, 64, 64), 1, "float32")
    record = measure_architecture(network, architecture, conditions, CPU, warmup=1, repeats=3)
    assert record.median_ms > 0
    assert record.iqr_ms >= 0
    assert all(module.training == training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_supernet_is_not_timed():
    supernet = AutoNADNet(Room.of_space(TINY), in_channels=3, classes=2, width=16)
    with pytest.raises(NotPlain, match="extract"):
        measure_architecture(
            supernet, TINY.smallest(), conditions_here(CPU, (3, 64, 64), 1, "float32"), CPU, warmup=0, repeats=1
        )


def test_conditions_of_another_place_are_refused():
    conditions = dataclasses.replace(conditions_here(CPU, (3, 64, 64), 1, "float32"), threads=77)
    with pytest.raises(ConditionsDiffer, match="threads 77 and "):
        measure_architecture(Watched(), TINY.smallest(), conditions, CPU, warmup=0, repeats=1)


def test_conditions_here_name_the_machine():
    found = conditions_here(CPU, (1, 8, 9), 4, "bfloat16")
    assert (found.device, found.shape, found.batch, found.precision) == ("cpu", (1, 8, 9), 4, "bfloat16")
    assert found.threads == torch.get_num_threads()
    assert found.torch_version == torch.__version__
    assert found.device_name


def test_conditions_round_trip():
    assert Conditions.from_dict(CONDITIONS.to_dict()) == CONDITIONS
    assert Conditions.from_json(CONDITIONS.to_json()) == CONDITIONS
    backwards = json.dumps(dict(reversed(CONDITIONS.to_dict().items())))
    assert Conditions.from_json(backwards).to_json() == CONDITIONS.to_json()


def test_differences_are_named_in_one_line():
    CONDITIONS.require_same(CONDITIONS)
    other = dataclasses.replace(CONDITIONS, device_name="NVIDIA Y", batch=8)
    with pytest.raises(ConditionsDiffer) as caught:
        CONDITIONS.require_same(other)
    text = str(caught.value)
    assert text.endswith("device_name NVIDIA X and NVIDIA Y, batch 1 and 8")
    assert "\n" not in text
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    "change", [{"device": "tpu"}, {"shape": (3, 0, 4)}, {"shape": (3, 4)}, {"batch": 0}, {"precision": "float8"}]
)
def test_impossible_conditions_are_refused(change):
    with pytest.raises(InvalidConditions):
        dataclasses.replace(CONDITIONS, **change)
    with pytest.raises(InvalidConditions):
        Conditions.from_dict({**CONDITIONS.to_dict(), **change})


@pytest.mark.parametrize("text", ["{", "[]", "{}", CONDITIONS.to_json().replace("batch", "patch")])
def test_texts_that_hold_no_conditions_are_refused(text):
    with pytest.raises(InvalidConditions):
        Conditions.from_json(text)


def test_records_round_trip():
    record = LatencyRecord(TINY.largest(), 1.25, 0.1)
    assert LatencyRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=40))
def test_tau_is_that_of_scipy(pairs):
    first, second = zip(*pairs, strict=True)
    expected = kendalltau(first, second, variant="b").statistic
    found = kendall_tau(first, second)
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_tau_by_hand():
    assert kendall_tau([1, 2, 3], [10.0, 20.0, 30.0]) == pytest.approx(1)
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert math.isnan(kendall_tau([1, 1], [1, 2]))
    assert math.isnan(kendall_tau([], []))
    with pytest.raises(ValueError, match="one length"):
        kendall_tau([1, 2], [1, 2, 3])
