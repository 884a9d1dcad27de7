"""Secrets that are planted wherever a user may have them, and looked for in everything that a run leaves behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.config import ConfigError, Layer, file_layer, resolve, set_layer
from orchestrator.tracking_uri import TrackingUriError, resolve_uri, with_password
from search.candidates import Candidate
from search.secret_texts import has_password, without_secrets

PLANTED = "pl4nted-in-this-test"
DOUBLE_CLI = Path(__file__).resolve().parents[1] / "doubles" / "double_cli.py"
KEPT = {
    "MLFLOW_TRACKING_USERNAME": "ann",
    "MLFLOW_TRACKING_PASSWORD": f"{PLANTED}-1",
    "MLFLOW_TRACKING_TOKEN": f"{PLANTED}-2",
    "AWS_ACCESS_KEY_ID": f"{PLANTED}-3",
    "AWS_SECRET_ACCESS_KEY": f"{PLANTED}-4",
    "RAY_AUTH_TOKEN": f"{PLANTED}-5".ljust(64, "0"),
    "WANDB_API_KEY": f"{PLANTED}-6",
}


def holding(folder: Path) -> list[str]:
    """Return the files below a folder that hold a planted secret."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and PLANTED.encode() in path.read_bytes()]


def launched(words, folder):
    command = [sys.executable, str(DOUBLE_CLI), *map(str, words)]
    environment = {**{k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}, **KEPT}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)


def test_a_finished_run_its_store_and_its_output_hold_no_secret(surfaces, tmp_path):
    data = [word for name in ("good", "tells") for word in ("--data", surfaces / name)]
    words = ["search", "asdet", "--budget", "smoke", "--set", "data.image_size=32", "--name", "r", "--no-ray"]
    done = launched([*words, *data, "--set", "resources.retries=0"], tmp_path)
    assert done.returncode == 1, done.stderr
    run = tmp_path / "runs" / "r"
    assert (run / "trials" / "good-s0" / "metrics.json").is_file()
    told = (run / "trials" / "tells-s0" / "error.txt").read_text()
    assert "http://***@proxy" in told
    assert "the key is ***" in told
    assert (tmp_path / "runs" / "mlflow.db").is_file()
    assert holding(tmp_path) == []
    assert PLANTED not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--tracking-uri", f"http://ann:{PLANTED}@127.0.0.1:1"],
        ["--set", f"tracking.uri=postgresql://ann:{PLANTED}@127.0.0.1/x"],
        ["--set", f"tracking.uri=mysql://h/d?password={PLANTED}"],
        ["--config", "c.yaml"],
    ],
)
def test_a_password_in_a_setting_is_refused_before_anything_is_written(words, surfaces, tmp_path):
    (tmp_path / "c.yaml").write_text(f"tracking: {{uri: 'https://{PLANTED}@h'}}\n")
    done = launched(["search", "asdet", "--budget", "smoke", "--data", surfaces / "good", *words], tmp_path)
    assert done.returncode == 2
    assert "tracking.uri: holds a password" in done.stderr
    assert "MLFLOW_TRACKING_PASSWORD" in done.stderr
    assert PLANTED not in done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_the_path_of_a_data_set_holds_no_password_either(tmp_path):
    with pytest.raises(ConfigError, match=r"data_sets\.0\.path: .*may hold no user or password") as refused:
        resolve([Layer("test", {"data_sets": [{"path": "s3://key:s3cret@bucket/MT"}]})], budget="smoke")
    assert "s3cret" not in str(refused.value)


def test_the_password_of_a_database_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p@ss/w")
    assert with_password("postgresql://db.example/mlflow") == "postgresql://ann:p%40ss%2Fw@db.example/mlflow"
    assert with_password("mysql+pymysql://bo@db/mlflow") == "mysql+pymysql://bo:p%40ss%2Fw@db/mlflow"
    # MLflow itself asks the environment for a server's.
    assert with_password("https://mlflow.example") == "https://mlflow.example"
    assert with_password("sqlite:////a/mlflow.db") == "sqlite:////a/mlflow.db"
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    assert with_password("postgresql://ann@db/mlflow") == "postgresql://ann@db/mlflow"
    with pytest.raises(TrackingUriError, match="holds a password"):
        resolve_uri("postgresql://ann:pw@db/mlflow", Path())


@pytest.mark.parametrize(
    ("address", "holds"),
    [
        ("http://ann:pw@h:5000", True),
        ("https://token@h", True),
        ("postgresql://ann:p@ss@h/d", True),
        ("postgresql+psycopg2://ann@h/d", False),
        ("mysql://h/d?user=u&password=pw", True),
        ("http://h:5000", False),
        ("sqlite:////a/b.db", False),
        ("/data/a@b:c", False),
        ("s3://bucket/runs", False),
        ("", False),
    ],
)
def test_passwords_are_found_in_addresses(address, holds):
    assert has_password(address) == holds


def test_values_of_secret_variables_are_blotted_out_and_places_of_secrets_are_not(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "abc-def-123")
    monkeypatch.setenv("OTHER_SECRET", "abc-def-123-long")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/ann/.ray/token")
    monkeypatch.setenv("TOKENS_SHORT", "on")
    assert without_secrets("x abc-def-123-long abc-def-123") == "x *** ***"
    assert without_secrets("in /home/ann/.ray/token, on") == "in /home/ann/.ray/token, on"


def test_an_error_in_the_ledger_of_candidates_shows_no_password():
    fields = {name: None for name in Candidate.__dataclass_fields__}
    candidate = Candidate(**{**fields, "error": "OSError: s3://key:s3cret@bucket is away"})
    assert candidate.error == "OSError: s3://***@bucket is away"


def test_settings_without_a_password_are_as_they_were(tmp_path):
    (tmp_path / "c.yaml").write_text("tracking: {uri: 'http://h:5000'}\n")
    layers = [file_layer(tmp_path / "c.yaml"), set_layer(["seed=3"])]
    launch = resolve(layers, budget="smoke")
    assert (launch.tracking.uri, launch.seed) == ("http://h:5000", 3)
