import json
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

from orchestrator.runtime_env import ROOT, NoSourceTreeError, runtime_env


def test_none_leaves_the_nodes_as_they_are():
    assert runtime_env("none") is None


def test_uv_sends_the_source_tree_and_names_uv_without_a_path():
    sent = runtime_env("uv")
    assert sent["working_dir"] == str(ROOT)
    assert (ROOT / "pyproject.toml").is_file()
    assert sent["py_executable"].startswith("uv run --frozen")
    assert "/.git" in sent["excludes"]


def test_an_installed_package_has_no_tree_to_send(tmp_path):
    with pytest.raises(NoSourceTreeError, match=r"no uv\.lock.*give none"):
        runtime_env("uv", tmp_path)


BEGUN_BY_UV = """
import json, sys
from clusters.connect import connected
with connected("none", cpus=1):
    import ray
    from ray._private.runtime_env.uv_runtime_env_hook import hook
    given = ray.get_runtime_context().runtime_env
    seen = ray.get(ray.remote(lambda: (sys.prefix, ray.get_runtime_context().runtime_env)).remote())
print(json.dumps([hook({}).get("py_executable", ""), sys.prefix, dict(given), seen[0], dict(seen[1])]))
"""


@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not on the PATH")
def test_workers_of_a_program_begun_by_uv_run_share_its_environment(tmp_path):
    place = tempfile.mkdtemp(prefix="u", dir="/tmp")
    environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    words = ["uv", "run", "--offline", "--no-sync", "--no-project", "--python", sys.executable, "python"]
    try:
        done = subprocess.run(
            [*words, "-c", BEGUN_BY_UV],
            cwd=ROOT,
            env={**environment, "TMPDIR": place, "VIRTUAL_ENV": sys.prefix},
            capture_output=True,
            text=True,
            timeout=200,
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    by_rays_hook, prefix, given, of_worker, seen = json.loads(done.stdout.splitlines()[-1])
    # Ray does know this program as one of uv, and would have workers begun by uv run, each node with a new environment.
    assert "uv" in by_rays_hook
    assert " run" in by_rays_hook
    assert given == seen == {}
    assert of_worker == prefix
