"""A whole trial on generated images: resumed after SIGKILL it ends as one that was never killed, bit for bit."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from search.checkpoint import CheckpointDamaged, CheckpointMismatch
from search.data.pack import build_pack
from search.data.readers import open_dataset
from search.data.synthetic import write_dataset
from search.ledger import read_events
from search.settings import (
    DataSettings,
    NetworkSettings,
    RetrainSettings,
    RuntimeSettings,
    SearchSettings,
    Settings,
)
from search.trial import BadTrial, run_trial

ROOT = Path(__file__).resolve().parents[2]
TINY = Settings(
    data=DataSettings(image_size=32, augment=("hflip",)),
    network=NetworkSettings(channels=4, operators=("zero", "identity", "sep_conv_3x3", "dil_conv_3x3", "spatial_att")),
    search=SearchSettings(keep=(3, 2, 1), epochs=2, warmup_epochs=1, batch=4, steps=2, alpha_lr=0.05),
    retrain=RetrainSettings(epochs=3, steps=2, ema=0.5),
    runtime=RuntimeSettings(threads=1, device="cpu", form="batched", channels_last="off"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder / "images", images=16, size=64, seed=0)
    return folder


def make_trial(folder, data, settings=TINY, method="asdet"):
    pack = build_pack(open_dataset(data / "images"), settings.data, 0, data / "packs")
    folder.mkdir()
    trial = {
        "method": method,
        "data": "images",
        "name": "images",
        "pack": str(pack.folder),
        "settings": settings.to_dict(),
    }
    (folder / "trial.json").write_text(json.dumps(trial))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    folder = make_trial(tmp_path_factory.mktemp("trials") / "whole", data)
    return folder, run_trial(folder)


RUN = "import sys; from pathlib import Path; from search.trial import run_trial; run_trial(Path(sys.argv[1]))"
DECIDED = ("iou", "f1", "pa", "test", "architecture_digest", "parameters", "macs")


def test_a_trial_leaves_all_that_is_promised(finished):
    folder, metrics = finished
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert 0 <= metrics["iou"] <= 1
    assert metrics["nothing"]["recall"] == 0
    assert len(metrics["stage_seconds"]) == 3
    assert list((folder / "pictures").glob("*.png"))
    events = list(read_events(folder / "ledger.jsonl"))
    assert [e["n"] for e in events] == list(range(len(events)))
    kinds = [e["event"] for e in events]
    assert (kinds.count("stage"), kinds.count("pruned"), kinds.count("epoch")) == (3, 3, 2 * 3 + 3)
    assert (kinds[0], kinds[-1]) == ("started", "finished")
    warm_up = [e["alpha_loss"] is None for e in events if e.get("phase") == "search" and e["event"] == "epoch"]
    assert warm_up == [True, False] * 3


def test_the_versions_that_a_trial_ran_with_are_in_its_ledger(finished, tmp_path, data):
    started = next(read_events(finished[0] / "ledger.jsonl"))
    assert {name: started[name] for name in ("ray", "mlflow")} == {name: version(name) for name in ("ray", "mlflow")}
    assert started.get("cuda") == torch.version.cuda
    code = (
        "import sys; from pathlib import Path; from search.trial import environment, open_context, read_trial\n"
        "folder = Path(sys.argv[1])\n"
        "environment(open_context(folder, read_trial(folder), None))\n"
        "print([name for name in ('ray', 'mlflow') if name in sys.modules])"
    )
    folder = make_trial(tmp_path / "new", data)
    done = subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_finished_trial_is_not_run_again(finished):
    folder, metrics = finished
    before = (folder / "ledger.jsonl").read_bytes()
    assert run_trial(folder) == metrics
    assert (folder / "ledger.jsonl").read_bytes() == before


def test_the_same_seed_gives_the_same_result_in_another_process(finished, data, tmp_path):
    folder, metrics = finished
    again = make_trial(tmp_path / "again", data)
    _run(again, PYTHONHASHSEED="12345")
    assert _decided(again) == {k: metrics[k] for k in DECIDED}
    assert _weights_equal(folder, again)


@pytest.mark.parametrize("at", [("search", 2, 1), ("search", 3, 2), ("retrain", None, 2)])
def test_killed_and_resumed_ends_as_the_uninterrupted_one(finished, data, tmp_path, at):
    folder, metrics = finished
    killed = make_trial(tmp_path / "killed", data)
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from search.trial import run_trial; run_trial(Path(sys.argv[1]))",
            str(killed),
        ],
        cwd=ROOT,
    )
    _wait_for(killed / "ledger.jsonl", at, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "metrics.json").exists()

    run_trial(killed)
    assert _decided(killed) == {k: metrics[k] for k in DECIDED}
    assert _weights_equal(folder, killed)
    courses = [
        [
            (e["phase"], e.get("stage"), e["epoch"], e["loss"])
            for e in read_events(f / "ledger.jsonl")
            if e["event"] == "epoch"
        ]
        for f in (folder, killed)
    ]
    assert courses[0] == courses[1]


def test_another_configuration_or_a_damaged_checkpoint_is_refused(data, tmp_path):
    folder = make_trial(tmp_path / "trial", data)
    run_trial(folder)
    for name in ("metrics.json", "architecture.json"):
        (folder / name).unlink()
    trial = json.loads((folder / "trial.json").read_text())
    other = dataclasses.replace(TINY, seed=1)
    (folder / "trial.json").write_text(json.dumps(trial | {"settings": other.to_dict()}))
    with pytest.raises(CheckpointMismatch, match="another configuration"):
        run_trial(folder)
    (folder / "trial.json").write_text(json.dumps(trial))
    for path in (folder / "checkpoint").glob("search-*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointDamaged, match="search-"):
        run_trial(folder)


def test_a_random_architecture_is_retrained_the_same_way(data, tmp_path):
    folder = make_trial(tmp_path / "random", data, method="random")
    metrics = run_trial(folder)
    assert (metrics["method"], metrics["search_seconds"]) == ("random", 0)
    assert not any(e.get("phase") == "search" and e["event"] == "epoch" for e in read_events(folder / "ledger.jsonl"))


STRATEGY = {
    "order": "second",
    "carry_weights": True,
    "carry_alphas": True,
    "edge_score": "first_stage",
    "zero_can_win": True,
}
CLASSES = {"data": {"task": "multiclass"}, "loss": {"multiclass": "softmax"}}
SELECTED = {"retrain": {"select": "best_val", "validation_fraction": 0.3}}
FORMS = {"runtime": {"form": "auto", "channels_last": "auto", "precision": "bfloat16"}}


@pytest.mark.parametrize(
    "changes",
    [{"search": STRATEGY}, CLASSES | SELECTED, FORMS | {"network": {"residual": "proj", "fusion": "balanced"}}],
    ids=["strategy", "multiclass", "forms"],
)
def test_every_option_of_the_strategy_runs_to_the_end(data, tmp_path, changes):
    sections = {k: dataclasses.replace(getattr(TINY, k), **v) for k, v in changes.items()}
    folder = make_trial(tmp_path / "trial", data, dataclasses.replace(TINY, **sections))
    metrics = run_trial(folder)
    assert 0 <= metrics["iou"] <= 1


@pytest.mark.parametrize("text", ["", "{", '{"method": "asdet"}', '{"method": "darts", "settings": {}}'])
def test_a_bad_trial_file_is_named(tmp_path, text):
    (tmp_path / "trial.json").write_text(text)
    with pytest.raises(BadTrial, match=r"trial\.json"):
        run_trial(tmp_path)


def _run(folder, **environment):
    subprocess.run([sys.executable, "-c", RUN, str(folder)], cwd=ROOT, check=True, env=os.environ | environment)


def _decided(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return {k: metrics[k] for k in DECIDED}


def _course(folder):
    epochs = [e for e in read_events(folder / "ledger.jsonl") if e["event"] == "epoch"]
    return [(e["phase"], e.get("stage"), e["epoch"], e["loss"]) for e in epochs]


def _weights_equal(first, second):
    a, b = (load_file(f / "weights.safetensors") for f in (first, second))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def _wait_for(ledger, at, process):
    """Return once the ledger holds the epoch; the process is then in the middle of what follows."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        events = list(read_events(ledger)) if ledger.exists() else []
        if any((e.get("phase"), e.get("stage"), e.get("epoch")) == at for e in events if e["event"] == "epoch"):
            return
        time.sleep(0.01)
    raise AssertionError(f"the trial ended or took too long before {at}")
