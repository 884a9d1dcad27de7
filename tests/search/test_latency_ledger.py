"""The latencies of a trial: each measured once, written as it comes, replayed when asked."""

import dataclasses
import json
import random
from dataclasses import dataclass

import pytest

from models.hybrid_space import HybridSpace
from search.latency import Conditions, LatencyRecord
from search.latency_ledger import BrokenLatencies, LatencyLedger, NotRecorded

SPACE = HybridSpace()
HERE = Conditions("cpu", "this one", 1, "2.0", (1, 32, 32), 1, "float32")


@dataclass
class Answer:
    index: int
    value: object
    error: str | None = None


class Measurers:
    """Measures with a clock that never gives the same time twice."""

    def __init__(self, conditions=HERE, failing=(), then=None):
        self.conditions, self.failing, self.then, self.measured = conditions, failing, then, []

    def map(self, items):
        for index, item in reversed(list(enumerate(items))):
            if item is None:
                yield Answer(index, self.conditions)
            elif item.digest() in self.failing:
                yield Answer(index, None, "it broke")
            else:
                self.measured.append(item.digest())
                record = LatencyRecord(item, 1.0 + len(self.measured), 0.1)
                yield Answer(index, (self.then or self.conditions, record))


def some(count, seed=0):
    generator = random.Random(seed)
    return [SPACE.sample(generator) for _ in range(count)]


def latencies(ledger, architectures):
    found = list(ledger.records(architectures))
    return {architectures[f.index].digest(): f.value and f.value.median_ms for f in found}


def test_nothing_is_measured_twice_also_by_the_next_attempt(tmp_path):
    path, measurers, asked = tmp_path / "latencies.jsonl", Measurers(), some(5)
    first = latencies(LatencyLedger(path, measurers), asked[:3])
    again = LatencyLedger(path, measurers)
    assert latencies(again, asked) | first == latencies(again, asked)
    assert sorted(measurers.measured) == sorted(a.digest() for a in asked)


def test_a_half_written_line_is_measured_again(tmp_path):
    path, asked = tmp_path / "latencies.jsonl", some(3)
    latencies(LatencyLedger(path, Measurers()), asked)
    path.write_bytes(path.read_bytes()[:-20])
    measurers = Measurers()
    assert set(latencies(LatencyLedger(path, measurers), asked)) == {a.digest() for a in asked}
    assert len(measurers.measured) == 1
    assert [json.loads(line)["median_ms"] for line in path.read_text().splitlines()][-1] == 2.0


def test_what_cannot_be_measured_is_said_and_not_written(tmp_path):
    path, asked = tmp_path / "latencies.jsonl", some(3)
    found = list(LatencyLedger(path, Measurers(failing=(asked[1].digest(),))).records(asked))
    assert [f.error for f in sorted(found, key=lambda f: f.index)] == [None, "it broke", None]
    assert len(path.read_text().splitlines()) == 2


ELSEWHERE = dataclasses.replace(HERE, device_name="another")


def test_a_search_that_goes_on_elsewhere_uses_what_it_has_and_does_not_mix(tmp_path):
    path, asked = tmp_path / "latencies.jsonl", some(3)
    told = latencies(LatencyLedger(path, Measurers()), asked[:2])
    elsewhere = Measurers(ELSEWHERE)
    ledger = LatencyLedger(path, elsewhere)
    assert latencies(ledger, asked[:2]) == told
    with pytest.raises(NotRecorded, match=r"latencies.jsonl: was measured on this one.*this is another.*latency.node"):
        list(ledger.records(asked))
    assert elsewhere.measured == []


def test_a_worker_that_takes_the_place_of_another_elsewhere_is_found_out(tmp_path):
    path, asked = tmp_path / "latencies.jsonl", some(2)
    with pytest.raises(NotRecorded, match="this is another"):
        list(LatencyLedger(path, Measurers(then=ELSEWHERE)).records(asked))
    assert not path.exists()


def test_replayed_latencies_are_those_of_the_earlier_run_on_any_machine(tmp_path):
    old, asked = tmp_path / "old.jsonl", some(4)
    told = latencies(LatencyLedger(old, Measurers()), asked)
    elsewhere = Measurers(dataclasses.replace(HERE, device_name="another"))
    ledger = LatencyLedger(tmp_path / "new.jsonl", elsewhere, old)
    assert latencies(ledger, asked) == told
    assert ledger.conditions == HERE
    assert elsewhere.measured == []
    with pytest.raises(NotRecorded, match="would mix conditions; what is on file was measured on this one"):
        list(ledger.records(some(1, seed=9)))
    here = Measurers()
    assert len(latencies(LatencyLedger(tmp_path / "third.jsonl", here, old), asked + some(1, seed=9))) == 5
    assert len(here.measured) == 1


@pytest.mark.parametrize(
    ("lines", "said"), [(None, "does not exist"), ("", "has no latency of"), ("{}\n", r"line 1: not a latency")]
)
def test_a_file_that_cannot_be_replayed_is_named(tmp_path, lines, said):
    old = tmp_path / "old.jsonl"
    if lines is not None:
        old.write_text(lines)
    with pytest.raises((NotRecorded, BrokenLatencies), match=said):
        LatencyLedger(tmp_path / "new.jsonl", Measurers(), old)
