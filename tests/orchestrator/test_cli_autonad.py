"""AutoNAD from the command line, in this process without Ray: what is refused, and what a finished search answers."""

import json

import pytest
from safetensors.torch import save_file
from torch import zeros
from typer.testing import CliRunner

from orchestrator import cli
from search import preflight
from search.data.synthetic import write_dataset

TINY = [
    "data.image_size=32", "space.widths=[[32],[32,64],[64],[64]]", "space.depths=[[1],[1],[1],[1]]",
    "space.ratios=[[2.0],[2.0],[2.0],[2.0]]", "space.decoder_width=32", "supernet.epochs=1", "supernet.steps=2",
    "supernet.warmup_epochs=0", "supernet.batch=4", "latency.records=4", "latency.repeats=1", "latency.warmup=0",
    "evolution.population=4", "evolution.generations=2", "evolution.children=2", "finetune.epochs=1",
    "finetune.steps=1",
    "finetune.batch=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "images"
    write_dataset(folder, images=12, size=64, seed=0)
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *words: runner.invoke(cli.app, [str(word) for word in words], prog_name="defectnas")


def search(images, *words, changed=()):
    settings = [word for value in (*TINY, *changed) for word in ("--set", value)]
    start = ["search", "autonad", "--data", images, "--budget", "demo", "--no-ray", "--no-tracking", "--quiet"]
    return [*start, *settings, *words]


@pytest.mark.parametrize(
    ("words", "changed", "said"),
    [
        (["--latency-limit", "0.000001ms"], [], "evolution.latency_limit_ms: 1e-06 ms cannot be met"),
        ([], ["evolution.parameter_limit=1000"], "evolution.parameter_limit: 1,000 parameters are fewer than any"),
        (
            [],
            ["evolution.mac_limit=0.00001", "space.operators=[convolution]"],
            "evolution.mac_limit: 1e-05 GMACs are fewer than any",
        ),
    ],
)
def test_limits_that_nothing_meets_are_one_line_and_exit_code_2(run, images, words, changed, said):
    done = run(*search(images, *words, changed=changed))
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"defectnas: images-s0: {said}")


@pytest.mark.parametrize(
    ("words", "changed", "said"),
    [
        (["--device", "cuda:99"], [], "runtime.device: cuda:99 is not on this machine"),
        ([], ["latency.device=cuda:99"], "latency.device: cuda:99 is not on this machine"),
        ([], ["space.widths=[[33],[32],[64],[64]]"], "widths: 33; allowed are multiples of 32"),
        ([], ["space.operators=[]"], "operators"),
    ],
)
def test_what_can_be_known_before_leaves_no_run(run, images, tmp_path, words, changed, said):
    done = run(*search(images, *words, changed=changed))
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_does_not_fit_and_then_a_supernet_of_another_space(run, images, tmp_path, monkeypatch):
    with monkeypatch.context() as small:
        small.setattr(preflight, "free_memory", lambda device: 30 * 2**20)
        done = run(*search(images, "--name", "r", changed=["supernet.batch=4096"]))
    assert done.exit_code == 2
    assert "with supernet.batch 4096: a training step needs about" in done.stderr
    assert "would fit" in done.stderr
    supernet = tmp_path / "runs" / "r" / "trials" / "images-s0" / "supernet.safetensors"
    save_file({"weight": zeros(1)}, supernet, {"digest": "another"})
    done = run("resume", "r", "--quiet")
    assert done.exit_code == 2
    assert f"{supernet} was trained in another space or with other settings or data" in done.stderr.splitlines()[-1]
    supernet.write_bytes(b"no weights")
    done = run("resume", "r", "--quiet")
    assert done.exit_code == 2
    assert "damaged" in done.stderr


def test_a_pareto_search_and_what_it_answers_afterwards(run, images):
    words = ["--objective", "pareto", "--latency-limit", "60s", "--device", "cpu", "--name", "r", "--json"]
    done = run(*search(images, *words))
    assert done.exit_code == 0, done.stderr
    (trial,) = json.loads(done.stdout)["trials"]
    assert trial["state"] == "done"
    best = json.loads(run("best", "r", "--under", "60s", "--json").stdout)
    assert best["under_ms"] == 60_000
    (found,) = best["best"]
    assert found["latency_ms"] < 60_000
    assert found["scored"] >= 4
    done = run("best", "r", "--under", "0.000001ms")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
