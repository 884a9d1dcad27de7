"""Which form of the mixed edges is taken: the fastest by a clock, then what was remembered."""

import json
from types import SimpleNamespace

import pytest
import torch

from search import forms
from search.forms import ABANDON, ROUNDS, Form, allowed_forms, choose_form
from search.settings import RuntimeSettings

OPEN = [Form("batched", True), Form("batched", False), Form("plain", True), Form("plain", False)]
CPU = torch.device("cpu")


class Bench:
    """A clock that goes on by what a step of a form takes: the first round may differ from the others."""

    def __init__(self, monkeypatch, first, later=None):
        self.now, self.seconds, self.rounds = 0.0, [first, later or first], {}
        monkeypatch.setattr(forms, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def prepare(self, form):
        def step():
            done = self.rounds.get(form, 0)
            self.rounds[form] = done + 1
            self.now += self.seconds[min(done, 1)][OPEN.index(form)]

        return step

    def choose(self, memory, *, shape="7 operators", offered=OPEN, fitting=lambda open_forms: open_forms):
        return choose_form(offered, fitting, self.prepare, CPU, shape, memory)


@pytest.mark.parametrize("fastest", range(4))
def test_the_fastest_is_taken_and_written_down(monkeypatch, tmp_path, fastest):
    seconds = [1.0, 1.2, 1.3, 1.1]
    seconds[fastest] = 0.9
    bench = Bench(monkeypatch, seconds)
    assert bench.choose(tmp_path / "forms.json") == OPEN[fastest]
    (decision,) = json.loads((tmp_path / "forms.json").read_text()).values()
    assert Form(decision["edges"], decision["channels_last"]) == OPEN[fastest]
    assert sorted(decision["seconds"].values()) == pytest.approx(sorted(seconds))


def test_a_slow_first_round_does_not_decide_between_near_ones(monkeypatch, tmp_path):
    # What is set up in the first step is not what a step takes.
    bench = Bench(monkeypatch, [1.5, 1.0, 1.2, 1.2], [0.5, 0.9, 0.9, 0.9])
    assert bench.choose(tmp_path / "forms.json") == OPEN[0]
    assert set(bench.rounds.values()) == {ROUNDS}


def test_a_form_that_is_far_behind_is_timed_once(monkeypatch, tmp_path):
    bench = Bench(monkeypatch, [1.0, ABANDON - 0.01, ABANDON + 0.01, 9.0])
    bench.choose(tmp_path / "forms.json")
    assert [bench.rounds[form] for form in OPEN] == [ROUNDS, ROUNDS, 1, 1]


def test_a_decision_is_remembered_for_its_shape_alone(monkeypatch, tmp_path):
    memory = tmp_path / "forms.json"
    assert Bench(monkeypatch, [1.0, 0.5, 1.0, 1.0]).choose(memory) == OPEN[1]
    now_others_are_faster = Bench(monkeypatch, [1.0, 1.0, 1.0, 0.5])
    assert now_others_are_faster.choose(memory) == OPEN[1]
    assert now_others_are_faster.rounds == {}
    assert now_others_are_faster.choose(memory, shape="4 operators") == OPEN[3]
    assert now_others_are_faster.choose(memory, offered=OPEN[:2]) in OPEN[:2]
    assert len(json.loads(memory.read_text())) == 3


def test_of_two_that_time_at_once_the_first_to_write_decides(monkeypatch, tmp_path):
    memory = tmp_path / "forms.json"
    late, other = Bench(monkeypatch, [1.0, 1.0, 0.5, 1.0]), None

    def meanwhile(open_forms):
        nonlocal other
        other = Bench(monkeypatch, [1.0, 0.5, 1.0, 1.0]).choose(memory)
        monkeypatch.setattr(forms, "time", SimpleNamespace(perf_counter=lambda: late.now))
        return open_forms

    assert late.choose(memory, fitting=meanwhile) == other == OPEN[1]
    assert late.rounds[OPEN[2]] == ROUNDS


def test_one_form_that_is_open_is_not_timed(monkeypatch, tmp_path):
    bench = Bench(monkeypatch, [1.0] * 4)
    assert bench.choose(tmp_path / "forms.json", offered=OPEN[2:3]) == OPEN[2]
    assert bench.rounds == {}
    assert not (tmp_path / "forms.json").exists()


def test_settings_and_groups_narrow_what_is_open(monkeypatch):
    assert allowed_forms(RuntimeSettings()) == OPEN
    assert allowed_forms(RuntimeSettings(form="plain", channels_last="off")) == [OPEN[3]]
    monkeypatch.setattr(forms, "world_size", lambda: 2)
    assert allowed_forms(RuntimeSettings()) == [OPEN[0]]
