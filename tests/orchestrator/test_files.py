import os
import subprocess
import sys

import pytest

from orchestrator.files import (
    InUseError,
    InvalidYamlError,
    dump_yaml,
    hold,
    is_held,
    parse_yaml,
    write_atomically,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("yes", "yes"),
        ("true", True),
        ("5e-3", 0.005),
        ("5", 5),
        ("-0.5", -0.5),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("~", None),
        ("[4, 1]", [4, 1]),
    ],
)
def test_yaml_reads_scalars_as_version_1_2_does(text, value):
    read = parse_yaml(text, "here")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("value", ["off", "1e-3", "5", "true", "null", "a: b", "", "ü", 1e-5, 0.1, 10**9, False])
def test_yaml_reads_back_what_it_wrote(value):
    assert parse_yaml(dump_yaml({"key": [value]}), "here") == {"key": [value]}


def test_yaml_names_origin_line_and_repeated_key():
    with pytest.raises(InvalidYamlError, match=r"^c.yaml: line 3, column 1 not valid YAML: key 'a' is given twice$"):
        parse_yaml("a: 1\nb: 2\na: 3\n", "c.yaml")
    with pytest.raises(InvalidYamlError, match=r"^c.yaml: line 2, column 2 not valid YAML: expected"):
        parse_yaml("a: [1\nb", "c.yaml")


def test_yaml_makes_no_objects():
    with pytest.raises(InvalidYamlError, match="constructor"):
        parse_yaml("!!python/object/apply:os.system ['true']", "c.yaml")


def test_a_failed_write_leaves_the_old_content_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_atomically(path, "old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_a_lock_is_refused_to_another_process_which_names_the_holder(tmp_path):
    lock = tmp_path / "lock"
    code = (
        "import sys; from pathlib import Path; from orchestrator.files import hold\n"
        "with hold(Path(sys.argv[1]), 'run r', 0.1): pass"
    )
    with hold(lock, "run r"):
        assert is_held(lock)
        other = subprocess.run([sys.executable, "-c", code, str(lock)], capture_output=True, text=True)
    assert other.returncode != 0
    assert f"InUseError: run r is in use by pid {os.getpid()} on host" in other.stderr
    assert not is_held(lock)
    assert subprocess.run([sys.executable, "-c", code, str(lock)]).returncode == 0


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    lock = tmp_path / "lock"
    code = (
        "import os, signal, sys; from pathlib import Path; from orchestrator.files import hold\n"
        "with hold(Path(sys.argv[1]), 'run r'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(lock)]).returncode == -9
    assert not is_held(lock)
    with hold(lock, "run r", wait_s=0):
        assert is_held(lock)


def test_holding_twice_in_one_process_is_refused_too(tmp_path):
    with (
        hold(tmp_path / "lock", "run r"),
        pytest.raises(InUseError),
        hold(tmp_path / "lock", "run r", wait_s=0),
    ):
        pass
