"""Workers on nodes that do not see the folder of their trial: the same result as where all is on one disk."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from clusters.executor import Outcome
from orchestrator.home import Home, Sent
from orchestrator.nodes import Job, NoSharedDiskError, ReturningPool, issue, materialise, retrainer_on_node, sees
from orchestrator.storage import open_store
from orchestrator.stored_packs import put_pack
from orchestrator.trees import OutsideError
from search.data.pack import build_pack
from search.data.readers import open_dataset
from search.settings import DataSettings


@pytest.fixture
def trial(tmp_path, surfaces, bucket):
    """The folder of a trial whose pack is in a store."""
    pack = build_pack(open_dataset(surfaces / "good"), DataSettings(image_size=32), 0, tmp_path / "packs")
    put_pack(open_store(f"{bucket}/runs"), pack.folder, pack.digest)
    folder = tmp_path / "runs/r/trials/good-s0"
    folder.mkdir(parents=True)
    storage = {"uri": f"{bucket}/runs", "cache": str(tmp_path / "cache")}
    content = {"pack": str(pack.folder), "pack_digest": pack.digest, "forms": "x", "storage": storage}
    (folder / "trial.json").write_text(json.dumps(content))
    return folder


def elsewhere(ticket):
    """What a ticket is on a node that has another disk."""
    return type(ticket)(ticket.folder, "another", ticket.trial)


def test_a_node_that_sees_the_trial_uses_its_folder(trial):
    ticket = issue(trial)
    assert sees(trial, ticket.token)
    assert materialise(ticket) == trial
    # Its path alone proves nothing.
    assert not sees(trial, "another")
    assert not sees(trial / "nowhere", ticket.token)


def test_a_node_that_does_not_makes_one_of_its_own_with_the_pack(trial, tmp_path):
    ticket = elsewhere(issue(trial))
    shutil.rmtree(tmp_path / "packs")
    folder = materialise(ticket)
    assert folder == materialise(ticket) != trial
    content = json.loads((folder / "trial.json").read_text())
    assert Path(content["pack"]).is_relative_to(tmp_path / "cache")
    assert (Path(content["pack"]) / "meta.json").is_file()
    assert Path(content["forms"]).parent == folder


def test_without_a_store_it_says_what_to_give(trial):
    content = json.loads((trial / "trial.json").read_text())
    (trial / "trial.json").write_text(json.dumps({**content, "storage": None}))
    with pytest.raises(NoSharedDiskError, match=r"does not see .*good-s0.*give --runs as .*or --storage"):
        materialise(elsewhere(issue(trial)))


def test_what_a_retraining_wrote_elsewhere_comes_back(trial):
    def retrained(place):
        assert json.loads((place / "job.json").read_text()) == {"seed": 1}
        for name in ("weights.safetensors", "pictures/a.png", "checkpoint/retrain-1.json", "lock", "metrics.json"):
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(name)
        return {"miou": 0.5}

    work = retrainer_on_node(elsewhere(issue(trial)), lambda folder: retrained, 60.0)
    jobs = [trial / "finalists/abc-s0", trial / "finalists/def-s0"]
    for job in jobs:
        job.mkdir(parents=True)
        (job / "job.json").write_text('{"seed": 1}')

    class Pool:
        def map(self, items):
            assert items[0] == Job("abc-s0", b'{"seed": 1}')
            yield Outcome(1, None, "tried 3 times", 3, 0.0)
            yield Outcome(0, work(items[0]), None, 1, 0.1)

    failed, done = ReturningPool(Pool()).map(jobs)
    assert failed.error == "tried 3 times"
    assert done.value == {"miou": 0.5}
    found = {str(p.relative_to(jobs[0])) for p in jobs[0].rglob("*") if p.is_file()}
    assert found == {"job.json", "weights.safetensors", "pictures/a.png", "metrics.json"}


def test_what_a_supernet_goes_on_from_is_handed_out_and_back(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "checkpoint").mkdir(parents=True)
    (here / "ledger.jsonl").write_text("1\n")
    (here / "checkpoint/supernet-00000001.json").write_text("one")
    home = Home(here)
    Home(there).take(home.state(), [])
    assert (there / "checkpoint/supernet-00000001.json").read_text() == "one"
    (there / "checkpoint/supernet-00000001.json").rename(there / "checkpoint/supernet-00000002.json")
    (there / "ledger.jsonl").write_text("1\n2\n")
    home.take(Home(there).state(), ["checkpoint/supernet-00000001.json"])
    assert Home(there).state() == home.state()
    with pytest.raises(OutsideError):
        home.take({"../x": b""}, [])
    with pytest.raises(OutsideError):
        home.take({}, ["../here/ledger.jsonl"])
    Sent().send(there)


def may_mount() -> bool:
    """Return whether this process may give a child disks of its own."""
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True).returncode == 0
    return False


@pytest.mark.timeout(600)
@pytest.mark.skipif(not may_mount(), reason="needs the right to mount")
def test_a_search_on_a_node_that_has_none_of_its_disks(tmp_path, bucket, searched):
    """The head sees the run and has no CPU to give; the node that has some sees neither run nor data."""
    config, metrics = searched
    runs = tmp_path / "runs"
    runs.mkdir()
    port = 20000 + os.getpid() % 10000
    script = textwrap.dedent(
        f"""
        import json, time
        from clusters.connect import ClusterUnreachableError, connected
        from orchestrator import api
        for _ in range(200):
            try:
                with connected("127.0.0.1:{port}"):
                    import ray
                    if len(ray.nodes()) == 2:
                        break
            except ClusterUnreachableError:
                pass
            time.sleep(0.5)
        else:
            raise SystemExit("the second node has not come")
        result = api.search(
            config=api.Path({str(config)!r}), runs=api.Path({str(runs)!r}), storage={bucket + "/runs"!r}, name="r",
            ray=True, workers=2, cluster="127.0.0.1:{port}",
        )
        print(json.dumps([trial.metrics for trial in result.trials]))
        """
    )
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as root:
        environment = {**os.environ, "RAY_TMPDIR": root, "RAY_AUTH_MODE": "disabled", "TMPDIR": root}
        environment.pop("RAY_ADDRESS", None)
        start = f"exec {Path(sys.executable).parent}/ray start --block --disable-usage-stats"
        # A node gives up where no head answers, which on a busy machine takes a while to.
        answers = f"import socket; socket.create_connection(('127.0.0.1', {port})).close()"
        head_is_there = f'until {sys.executable} -c "{answers}" 2> /dev/null; do sleep 0.5; done'
        hidden = " && ".join(f"mount -t tmpfs none {folder}" for folder in (config.parent, runs))
        begin = [
            f"{start} --head --port={port} --num-cpus=0 --include-dashboard=false --temp-dir={root}/h",
            f"{hidden} && {head_is_there} && {start} --address=127.0.0.1:{port} --num-cpus=4",
        ]
        nodes = [
            subprocess.Popen(
                ["unshare", "-m", "sh", "-c", command],
                env={**environment, "XDG_CACHE_HOME": str(tmp_path / f"cache-{number}")},
                stdout=subprocess.DEVNULL,
            )
            for number, command in enumerate(begin)
        ]
        try:
            done = subprocess.run(
                [sys.executable, "-c", script],
                env=environment,
                capture_output=True,
                text=True,
                timeout=500,
            )
            assert done.returncode == 0, done.stderr
        finally:
            for node in nodes:
                node.terminate()
            for node in nodes:
                # It would wait for its work to be handed over, and there is none.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    node.wait(3)
                node.kill()
                node.wait()
    (found,) = json.loads(done.stdout.splitlines()[-1])
    assert found["architecture_digest"] == metrics["architecture_digest"]
    assert found["miou"] == metrics["miou"]
    assert (runs / "r/trials/images-s0/weights.safetensors").is_file()
    assert list((tmp_path / "cache-1").rglob("meta.json"))
    assert not (tmp_path / "cache-0").exists()
