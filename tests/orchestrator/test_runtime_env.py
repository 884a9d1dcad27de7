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
