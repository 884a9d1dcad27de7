"""A whole AutoNAD trial on generated images: what it leaves, going on after being cut off, and the same by Ray."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.fault_processes import processes_named
from clusters.executor import ray_pool
from models.autonad import AutoNADNet, Room
from models.hybrid_architecture import HybridArchitecture
from orchestrator.drawing import draw_trial
from orchestrator.hybrid import run_trial, serial_hands
from orchestrator.placement import NodeMissing, apart, cpu_share, gpus_for, probe_options
from orchestrator.supernet_trainer import SupernetRefused, train_with_ray
from search import hybrid_workers
from search.checkpoint import CheckpointMismatch
from search.context import DeviceMissing
from search.data.pack import build_pack
from search.data.readers import open_dataset
from search.data.synthetic import write_dataset
from search.divergence import Diverged
from search.hybrid_settings import (
    EvolutionSettings,
    FinetuneSettings,
    LatencySettings,
    SpaceSettings,
    SupernetSettings,
)
from search.hybrid_trial import run_hybrid_trial, train_here
from search.latency_table import LatencyTable
from search.ledger import read_events
from search.limits import NothingLegal
from search.settings import DataSettings, RuntimeSettings, Settings
from search.trial import open_context, read_trial

# Without a latency table and a price of latency nothing that is measured decides anything.
TINY = Settings(
    data=DataSettings(image_size=32, task="multiclass", augment=("hflip",)),
    space=SpaceSettings(
        widths=((32,), (32, 64), (64,), (64,)), depths=((1, 2),) * 4, ratios=((2.0,),) * 4, decoder_width=32
    ),
    supernet=SupernetSettings(epochs=3, warmup_epochs=1, batch=4, steps=2, validate_every=2, probes=1),
    latency=LatencySettings(records=0, repeats=1, warmup=0),
    evolution=EvolutionSettings(population=4, generations=3, children=3, parents=2, penalty=0.0, baseline=True),
    finetune=FinetuneSettings(epochs=2, steps=2, batch=4, seeds=2, lr=1e-3),
    runtime=RuntimeSettings(threads=1, device="cpu"),
)


def run_here(folder, emit):
    """Run a trial in this process, also where Ray is connected."""
    return run_hybrid_trial(folder, emit, serial_hands)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder / "images", images=16, size=64, seed=0)
    return folder


def make_trial(folder, data, settings=TINY):
    pack = build_pack(open_dataset(data / "images"), settings.data, 0, data / "packs")
    folder.mkdir(parents=True)
    trial = {"method": "autonad", "data": "images", "name": "images", "pack": str(pack.folder)}
    (folder / "trial.json").write_text(json.dumps({**trial, "settings": settings.to_dict()}))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    folder = make_trial(tmp_path_factory.mktemp("trials") / "whole", data)
    return folder, run_here(folder, None)


def changed(**sections):
    return dataclasses.replace(
        TINY, **{name: dataclasses.replace(getattr(TINY, name), **values) for name, values in sections.items()}
    )


def test_a_trial_leaves_all_that_is_promised(finished):
    folder, metrics = finished
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    names = {path.name for path in folder.iterdir()}
    assert {"supernet.safetensors", "candidates.jsonl", "candidates.parquet", "random.jsonl", "finalists"} <= names
    assert {"architecture.json", "weights.safetensors", "pictures", "ledger.jsonl"} <= names
    assert [f["role"] for f in metrics["finalists"]] == ["finalist"] * 2 + ["random"] * 2
    assert metrics["miou"] == pytest.approx(sum(f["miou"] for f in metrics["finalists"][:2]) / 2)
    assert 0 <= metrics["iou"] <= 1
    retrained = [f["miou"] for f in metrics["finalists"]]
    assert metrics["std"]["miou"] == pytest.approx(abs(retrained[0] - retrained[1]) / 2**0.5)
    assert metrics["random"]["std"]["miou"] == pytest.approx(abs(retrained[2] - retrained[3]) / 2**0.5)
    generations = [e for e in read_events(folder / "ledger.jsonl") if e["event"] == "generation"]
    assert [(e["strategy"], e["generation"]) for e in generations] == [
        (strategy, k) for strategy in ("evolution", "random") for k in (1, 2, 3)
    ]


def test_every_worker_says_on_what_it_computed_and_for_how_long(finished):
    folder, metrics = finished
    events = list(read_events(folder / "ledger.jsonl"))
    assert [(e["device"], e["threads"], e["workers"]) for e in events if e["event"] == "epoch"] == [("cpu", 1, 1)] * 3
    for strategy, name in (("evolution", "candidates"), ("random", "random")):
        lines = [json.loads(line) for line in (folder / f"{name}.jsonl").open()]
        for event in (e for e in events if e["event"] == "generation" and e["strategy"] == strategy):
            own = [c["score"] for c in lines if c["generation"] == event["generation"] - 1]
            assert event["device_seconds"] == {"cpu": pytest.approx(sum(score["seconds"] for score in own))}
            assert event["measured_on"] == "cpu"
    assert [e["device"] for e in events if e["event"] == "finalist"] == ["cpu"] * 4
    assert metrics["finalists"][0]["threads"] == 1


def test_the_weights_of_the_winner_fit_its_architecture(finished):
    folder, metrics = finished
    architecture = HybridArchitecture.from_json((folder / "architecture.json").read_text())
    assert architecture.digest() == metrics["architecture_digest"]
    classes = len(metrics["classes"]) - 1
    network = AutoNADNet(Room.of_architecture(architecture), in_channels=1, classes=classes, width=32)
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    assert metrics["parameters"] == sum(p.numel() for p in network.parameters())


def without_times(value):
    """Return metrics without what is measured by a clock, at any depth: no two runs agree in it."""
    timed = ("seconds", "search_seconds", "retrain_seconds", "latency_ms", "latency_iqr_ms")
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in timed}
    return [without_times(v) for v in value] if isinstance(value, list) else value


class Cut(Exception):
    pass


def cut_at(number):
    def emit(event):
        if event["n"] == number:
            raise Cut

    return emit


@pytest.mark.parametrize("number", [2, 6, 12])
def test_a_trial_cut_off_anywhere_ends_as_one_that_was_not(tmp_path, data, finished, number):
    whole, metrics = finished
    folder = make_trial(tmp_path / "trial", data)
    with pytest.raises(Cut):
        run_here(folder, cut_at(number))
    assert not (folder / "metrics.json").exists()
    again = run_here(folder, None)
    assert without_times(again) == without_times(metrics)
    for name in ("weights.safetensors", "supernet.safetensors"):
        first, second = load_file(whole / name), load_file(folder / name)
        assert all(torch.equal(value, second[key]) for key, value in first.items())
    generations = [e for e in read_events(folder / "ledger.jsonl") if e["event"] == "generation"]
    assert [e["generation"] for e in generations] == [1, 2, 3] * 2  # of the evolution and of the random search
    assert "course.png" in {path.name for path in draw_trial(folder)}
    asked = [[c["digest"] for c in map(json.loads, (f / "candidates.jsonl").open())] for f in (whole, folder)]
    assert asked[0] == asked[1]


def test_measuring_and_retraining_are_counted_in_the_ledger(tmp_path, data, monkeypatch):
    monkeypatch.setattr("search.methods.autonad.TOLD_EVERY_S", 0.0)
    settings = changed(latency={"records": 4}, evolution={"baseline": False})
    folder = make_trial(tmp_path / "trial", data, settings)
    retrained = []

    def stop_after_one(event):
        if event["event"] == "finalist":
            retrained.append(event)
            raise Cut

    with pytest.raises(Cut):
        run_here(folder, stop_after_one)
    run_here(folder, None)
    told = [(e["phase"], e["done"], e["of"]) for e in read_events(folder / "ledger.jsonl") if e["event"] == "progress"]
    measured = [("latency", done, 4) for done in range(5)]
    assert told == [*measured, ("retrain", 0, 2), *measured, ("retrain", 1, 2)]


def test_the_drawings_of_a_trial(tmp_path, data):
    settings = changed(
        latency={"records": 8, "repeats": 1},
        evolution={"strategy": "pareto", "baseline": False},
        finetune={"finalists": 2, "seeds": 1, "epochs": 1},
    )
    folder = make_trial(tmp_path / "trial", data, settings)
    metrics = run_here(folder, None)
    assert 1 <= len(metrics["finalists"]) <= 2
    names = {path.name for path in draw_trial(folder)}
    assert {"architecture.png", "front.png", "course.png", "latency.png", "curves.png"} <= names
    table = LatencyTable.from_json((folder / "latency_table.json").read_text())
    [chosen] = [e for e in read_events(folder / "ledger.jsonl") if e["event"] == "chosen"]
    told = {
        "records": 8,
        "residual_ms": table.residual_ms,
        "tau": chosen["table_tau"],
        "over": chosen["table_tau_over"],
    }
    assert metrics["latency_table"] == told
    assert -1 <= told["tau"] <= 1
    stages = json.loads((folder / "prior.json").read_text())["blocks"]
    prior = table.prior(relative_temperature=settings.latency.temperature, floor=settings.latency.floor)
    assert {(s, b): row for s, rows in enumerate(stages) for b, row in enumerate(rows)} == prior


def retrained_by(folder, job_of):
    """Return hands whose retrainers do what `job_of` makes of the real one; the trial is at its retraining."""
    for left in (folder / "metrics.json", folder / "finalists"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()

    def hands(context):
        real = serial_hands(context)

        def pool(make_worker, kind):
            return real.pool((lambda f: job_of(make_worker(f))) if kind == "retrain" else make_worker, kind)

        return dataclasses.replace(real, pool=pool)

    return hands


@pytest.fixture
def at_its_end(tmp_path, finished):
    return shutil.copytree(finished[0], tmp_path / "trial")


def test_a_finalist_that_cannot_be_retrained_is_left_out_and_the_next_takes_its_place(at_its_end, finished):
    best, drawn = finished[1]["architecture_digest"], finished[1]["finalists"][2]["architecture_digest"]

    def job_of(work):
        def job(place):
            if place.name == f"{best[:8]}-s1":
                raise RuntimeError("broke")
            return work(place)

        return job

    said = []
    metrics = run_hybrid_trial(at_its_end, said.append, retrained_by(at_its_end, job_of))
    [lost] = metrics["quarantined"]
    assert (lost["digest"], lost["role"]) == (best, "finalist")
    assert "broke" in lost["error"]
    rows = [json.loads(line) for line in (at_its_end / "candidates.jsonl").read_text().splitlines()]
    by_score = sorted((r for r in rows if r["score"]), key=lambda r: (-r["score"]["miou"], r["number"]))
    assert by_score[0]["digest"] == best
    second = by_score[1]["digest"]
    roles = [(f["role"], f["architecture_digest"], f["seed"]) for f in metrics["finalists"]]
    assert roles == [("finalist", second, 0), ("finalist", second, 1), ("random", drawn, 0), ("random", drawn, 1)]
    assert metrics["architecture_digest"] == second
    assert HybridArchitecture.from_json((at_its_end / "architecture.json").read_text()).digest() == second
    assert [e["digest"] for e in said if e["event"] == "quarantined"] == [best]


def test_a_finalist_that_diverges_is_left_out_too(at_its_end, finished, monkeypatch):
    best, here = finished[1]["architecture_digest"], hybrid_workers.run_job

    def some(job, *rest):
        if job.name == f"{best[:8]}-s1":
            raise Diverged("finetuning: epoch 1: the loss is nan; lower finetune.lr")
        return here(job, *rest)

    monkeypatch.setattr("search.hybrid_workers.run_job", some)
    metrics = run_hybrid_trial(at_its_end, None, retrained_by(at_its_end, lambda work: work))
    assert [q["digest"] for q in metrics["quarantined"]] == [best]
    assert metrics["quarantined"][0]["error"] == "finetuning: epoch 1: the loss is nan; lower finetune.lr"
    assert [f["role"] for f in metrics["finalists"]] == ["finalist", "finalist", "random", "random"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("broke"), "tried 1 time: RuntimeError: broke"),
        (Diverged("lower finetune.lr"), "lower finetune.lr"),
    ],
)
def test_where_none_can_be_retrained_the_trial_fails_and_says_why(at_its_end, monkeypatch, error, said):
    def none(*_):
        raise error

    monkeypatch.setattr("search.hybrid_workers.run_job", none)
    with pytest.raises(type(error), match=f"finalists, and none could be retrained: {said}"):
        run_hybrid_trial(at_its_end, None, retrained_by(at_its_end, lambda work: work))
    # For which not they are to blame: a resumed trial tries the same.
    assert not [e for e in read_events(at_its_end / "ledger.jsonl") if e["event"] == "quarantined"]


def test_a_full_disk_under_a_retraining_ends_the_trial_at_once_and_keeps_its_kind(at_its_end, monkeypatch):
    tries = []

    def full(*_):
        tries.append(1)
        Path("/dev/full").write_text("x")

    monkeypatch.setattr("search.hybrid_workers.run_job", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*finalists") as raised:
        run_hybrid_trial(at_its_end, None, retrained_by(at_its_end, lambda work: work))
    assert raised.value.errno == errno.ENOSPC
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"latency_limit_ms": 1e-6}, "latency_limit_ms: 1e-06 ms cannot be met; the fastest of the smallest"),
        ({"parameter_limit": 10}, "parameters are fewer than any subnet"),
        ({"mac_limit": 1e-9}, "GMACs are fewer than any subnet"),
    ],
)
def test_limits_that_leave_nothing_are_said_before_anything_is_trained(tmp_path, data, limits, said):
    folder = make_trial(tmp_path / "trial", data, changed(evolution=limits))
    with pytest.raises(NothingLegal, match=said):
        run_here(folder, None)
    assert not (folder / "supernet.safetensors").exists()
    assert not (folder / "checkpoint").exists()


def nodes(*labels, slots=()):
    return [
        {
            "Alive": True,
            "Labels": {"ray.io/node-id": str(k), **own},
            "Resources": {"CPU": 1.0, **({"latency_slot": 1.0} if k in slots else {})},
        }
        for k, own in enumerate(labels)
    ]


def test_gpus_are_used_as_the_device_says_and_never_missed_silently():
    assert [gpus_for("runtime.device", device, 3) for device in ("auto", "cpu", "cuda")] == [3, 0, 3]
    assert [gpus_for("runtime.device", device, 0) for device in ("auto", "cpu")] == [0, 0]
    with pytest.raises(DeviceMissing, match=r"latency.device: cuda; the nodes .* have no GPU"):
        gpus_for("latency.device", "cuda", 0)


def test_as_many_workers_as_cpus_run_at_once_beside_who_drives(ray_session, tmp_path):
    import ray

    class Driver:
        pass

    def waits_for_the_others():
        (tmp_path / str(os.getpid())).touch()

        def work(_):
            until = time.monotonic() + 60
            while len(list(tmp_path.iterdir())) < 4:
                if time.monotonic() > until:
                    raise RuntimeError("the others have no place")
                time.sleep(0.05)

        return work

    driver = ray.remote(num_cpus=0.01)(Driver).remote()
    ray.get(driver.__ray_ready__.remote())
    with ray_pool(waits_for_the_others, actors=4, cpus=cpu_share(4, 1, 4), retries=0) as pool:
        assert [outcome.error for outcome in pool.map(range(4))] == [None] * 4
    ray.kill(driver)
    assert cpu_share(1, 2, 8) == 2


def test_a_board_with_a_slot_is_left_alone_by_all_that_does_not_measure(monkeypatch, ray_session):
    import ray

    there = [{"defectnas/device": "t4"}, {"defectnas/device": "orin"}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes(*there, slots=(1,)))
    assert apart("") == apart("defectnas/device=t4") == {}
    assert apart("defectnas/device=orin") == {"label_selector": {"defectnas/device": "!orin"}}


def test_latency_is_measured_on_the_node_with_the_label_and_alone_where_it_declares_a_slot(monkeypatch, ray_session):
    import ray

    there = [{"defectnas/device": "t4"}, {"defectnas/device": "orin"}, {}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes(*there, slots=(1,)))
    assert probe_options("defectnas/device=t4") == {"label_selector": {"defectnas/device": "t4"}}
    found = probe_options("defectnas/device=orin")
    assert found == {"label_selector": {"defectnas/device": "orin"}, "resources": {"latency_slot": 1}}
    with pytest.raises(
        NodeMissing, match="the label defectnas/device=t5; there are defectnas/device=orin, defectnas/device=t4"
    ):
        probe_options("defectnas/device=t5")
    monkeypatch.setattr(ray, "nodes", lambda: [{**node, "Alive": False} for node in nodes(*there)])
    with pytest.raises(NodeMissing, match="there are no labels"):
        probe_options("defectnas/device=t4")


def test_actors_of_ray_find_what_one_process_does(tmp_path, data, finished, ray_session):
    whole, metrics = finished
    folder = make_trial(tmp_path / "trial", data)
    trial = json.loads((folder / "trial.json").read_text())
    (folder / "trial.json").write_text(json.dumps({**trial, "scorers": 3}))
    again = run_trial(folder, None)
    assert again["architecture_digest"] == metrics["architecture_digest"]
    assert again["miou"] == metrics["miou"]
    numbered = [
        {c["number"]: (c["digest"], c["score"]["miou"]) for c in map(json.loads, (f / "candidates.jsonl").open())}
        for f in (whole, folder)
    ]
    assert numbered[0] == numbered[1]


def test_four_actors_go_through_the_history_of_one_process_where_its_latencies_are_replayed(
    tmp_path, data, ray_session
):
    # The price of latency decides here, and no two measurements are the same.
    settings = changed(latency={"records": 6}, evolution={"penalty": -1.0, "baseline": False}, finetune={"seeds": 1})
    first = make_trial(tmp_path / "first/trials/images-s0", data, settings)
    metrics = run_here(first, None)
    replaying = dataclasses.replace(
        settings, latency=dataclasses.replace(settings.latency, replay=str(tmp_path / "first"))
    )
    second = make_trial(tmp_path / "second/trials/images-s0", data, replaying)
    trial = json.loads((second / "trial.json").read_text())
    (second / "trial.json").write_text(json.dumps({**trial, "scorers": 4}))
    again = run_trial(second, None)
    timed = ("architecture", "latency_ms", "points", "feasible")
    histories = [
        {
            c["number"]: [c[name] for name in timed if name in c]
            for c in map(json.loads, (f / "candidates.jsonl").open())
        }
        for f in (first, second)
    ]
    assert histories[0] == histories[1]
    assert again["architecture_digest"] == metrics["architecture_digest"]
    assert (first / "latency_table.json").read_bytes() == (second / "latency_table.json").read_bytes()
    assert not (second / "latencies.jsonl").exists()


@pytest.fixture(scope="module")
def trained_by_two(tmp_path_factory, data, ray_session):
    """A supernet trained by two workers of Ray, with the context and the events of its training."""
    # Stochastic depth drops other samples where a batch is divided.
    folder = make_trial(tmp_path_factory.mktemp("group") / "trial", data, changed(supernet={"drop_path": 0.0}))
    events = []
    context = open_context(folder, read_trial(folder), events.append)
    train_with_ray(context, 2, cpus=0.5, gpu=False)
    return context, events


def test_a_worker_killed_in_the_middle_of_the_training_changes_nothing(tmp_path, data, trained_by_two):
    whole = trained_by_two[0].folder
    folder = make_trial(tmp_path / "killed", data, changed(supernet={"drop_path": 0.0}))
    killed = []

    def kill_one(event):
        if event["event"] == "epoch" and event["epoch"] == 2 and not killed:
            killed.append(max(processes_named("ray::RayTrainWorker")))
            os.kill(killed[0], signal.SIGKILL)

    train_with_ray(open_context(folder, read_trial(folder), kill_one), 2, cpus=0.5, gpu=False)
    assert killed
    first, second = (load_file(f / "supernet.safetensors") for f in (whole, folder))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    epochs = [e for e in read_events(folder / "ledger.jsonl") if e["event"] == "epoch"]
    assert [(e["epoch"], e["workers"]) for e in epochs] == [(1, 2), (2, 2), (3, 2)]


def test_a_batch_that_fits_nowhere_is_refused_once_by_all_workers(tmp_path, data, ray_session):
    folder = make_trial(tmp_path / "trial", data, changed(supernet={"batch": 2**24}))
    context = open_context(folder, read_trial(folder), None)
    with pytest.raises(SupernetRefused, match=r"worker 0: .*with supernet.batch 16777216: .* would fit"):
        train_with_ray(context, 2, cpus=0.5, gpu=False)
    assert not (folder / "checkpoint").exists()


def test_a_checkpoint_of_another_space_is_refused_before_workers_are_begun(tmp_path, data, trained_by_two):
    whole = trained_by_two[0].folder
    folder = make_trial(tmp_path / "other", data, changed(space={"decoder_width": 64}))
    shutil.copytree(whole / "checkpoint", folder / "checkpoint")
    with pytest.raises(CheckpointMismatch, match="written under another configuration"):
        train_with_ray(open_context(folder, read_trial(folder), None), 2, cpus=0.5, gpu=False)


def test_a_supernet_trained_by_two_ray_workers_is_that_of_one_process(tmp_path, data, trained_by_two):
    context, events = trained_by_two
    folder, alone = context.folder, make_trial(tmp_path / "alone", data, changed(supernet={"drop_path": 0.0}))
    train_here(open_context(alone, read_trial(alone), None))
    first, second = (load_file(f / "supernet.safetensors") for f in (folder, alone))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=1e-4, msg=name)
    assert [e["epoch"] for e in events if e["event"] == "epoch"] == [1, 2, 3]
    assert context.ledger.count == len(list(read_events(folder / "ledger.jsonl")))
