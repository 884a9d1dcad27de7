"""The simulated cluster: the same by seed, ideal with nothing in the way, the same search on any number of GPUs."""

import dataclasses

import pytest

from benchmarks.simulator import Driver, Setup, simulate
from benchmarks.virtual import Chances, Costs
from search.candidates import CandidateLedger
from search.hybrid_settings import EvolutionSettings

SETTINGS = EvolutionSettings(population=24, generations=3, children=12)
COSTS = Costs(submit_s=1e-3, wait_s=1e-3, way_s=1e-2, actor_s=1.0, worker_s=2.0, bytes_per_s=1e9)
ROUGH = Setup(
    4,
    costs=COSTS,
    driver=Driver(1e-3, 1e-3),
    chances=Chances(spread=0.3, straggling=0.05, raising=0.1, dying=0.05, hanging=0.02),
    timeout_s=30,
)


def run(folder, name, setup, settings=SETTINGS):
    (folder / name).mkdir()
    report = simulate(setup, settings, folder / name)
    return dataclasses.replace(report, driver_cpu_ms=0, rss_mib=0), CandidateLedger(
        folder / name / "candidates.jsonl"
    ).known


def test_the_same_seed_gives_the_same_report(tmp_path):
    first, found = run(tmp_path, "a", ROUGH)
    again, found_again = run(tmp_path, "b", ROUGH)
    assert (first, found) == (again, found_again)
    other, _ = run(tmp_path, "c", dataclasses.replace(ROUGH, seed=1))
    assert other.makespan_s != first.makespan_s


def test_one_gpu_without_overhead_is_used_all_the_time(tmp_path):
    report, found = run(tmp_path, "a", Setup(1, chances=Chances(spread=0.3)))
    assert report.efficiency == pytest.approx(1.0)
    assert report.candidates == len(found) == 48
    assert report.failed == 0


def test_equal_candidates_that_fit_the_gpus_use_them_all_and_others_as_the_generations_allow(tmp_path):
    even, _ = run(tmp_path, "a", Setup(12))
    assert (even.makespan_s, even.efficiency) == (4.0, 1.0)
    # Twelve children on 24 GPUs: half of them rest in two of three generations.
    uneven, _ = run(tmp_path, "b", Setup(24))
    assert (uneven.makespan_s, uneven.efficiency) == (3.0, pytest.approx(2 / 3))


def test_measuring_is_one_after_the_other_however_many_gpus(tmp_path):
    report, _ = run(tmp_path, "a", Setup(12, measure_s=0.5))
    assert report.measuring_s == pytest.approx(48 * 0.5)
    assert report.makespan_s == pytest.approx(4.0 + 24.0)


def test_the_number_of_gpus_and_what_fails_on_the_way_change_nothing_that_is_found(tmp_path):
    retried = dataclasses.replace(ROUGH, retries=30)
    _, one = run(tmp_path, "a", dataclasses.replace(retried, gpus=1))
    _, many = run(tmp_path, "b", dataclasses.replace(retried, gpus=32))
    assert one == many
    assert len(one) == 48
