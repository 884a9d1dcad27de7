import dataclasses
import json
import re
import threading
from pathlib import Path
from types import FunctionType

import pytest
from typer.testing import CliRunner

from orchestrator import api, cli
from orchestrator.config import ConfigError
from orchestrator.launch import Launch
from search.errors import InputError

README = Path(__file__).resolve().parents[2] / "README.md"


def searched(surfaces, tmp_path, *names, **more):
    options = {"budget": "smoke", "settings": ["data.image_size=32"], "ray": False, "tracking": False, **more}
    data = [surfaces / name for name in names]
    return api.search(data=data, runs=tmp_path / "runs", function="trial_doubles:chosen", **options)


def test_functions_return_values_and_print_nothing(surfaces, tmp_path, capfd):
    result = searched(surfaces, tmp_path, "good", "fails", seeds=2, name="mine")
    assert (result.run, len(result.trials), len(result.failed)) == ("mine", 4, 2)
    assert result.best.metrics["iou"] == 0.5
    again = api.resume("mine", runs=tmp_path / "runs", ray=False, function="trial_doubles:chosen")
    assert [trial.state for trial in again.trials] == ["done", "done", "failed", "failed"]
    assert api.show("mine", runs=tmp_path / "runs") == again
    assert api.show_all(runs=tmp_path / "runs").results == (again,)
    assert capfd.readouterr() == ("", "")


def test_it_works_outside_of_the_main_thread(surfaces, tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(searched(surfaces, tmp_path, "good")))
    thread.start()
    thread.join(60)
    assert [trial.state for trial in results[0].trials] == ["done"]


def test_a_wrong_configuration_is_an_exception(surfaces, tmp_path):
    with pytest.raises(ConfigError, match=r"did you mean search\.epochs"):
        searched(surfaces, tmp_path, "good", settings=["search.epoch=1"])
    with pytest.raises(InputError, match="no run"):
        api.resume("none", runs=tmp_path / "runs")


def test_resources_given_on_resuming_hold_for_that_launch_alone(surfaces, tmp_path):
    run = searched(surfaces, tmp_path, "fails", name="r").folder
    before = (run / "config.yaml").read_text()
    api.resume("r", runs=tmp_path / "runs", workers=1, ray=False, function="trial_doubles:chosen")
    assert (run / "config.yaml").read_text() == before
    with pytest.raises(InputError, match="--parallel: without Ray"):
        api.resume("r", runs=tmp_path / "runs", parallel=1, ray=False, function="trial_doubles:chosen")


def test_every_command_has_its_function_and_the_readme_lists_them_all():
    commands = {command.callback.__name__ for command in cli.app.registered_commands}
    commands |= {f"data_{command.callback.__name__}" for command in cli.data_app.registered_commands}
    functions = {name for name, value in vars(api).items() if isinstance(value, FunctionType) and name[0] != "_"}
    own = {name for name in functions if getattr(api, name).__module__ == api.__name__}
    assert commands <= own
    text = README.read_text(encoding="utf-8").split("## From Python")[1].split("\n## ")[0]
    listed = {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert listed == own - {"places"}


def test_the_schema_and_the_list_of_a_store_are_those_that_the_commands_print(tmp_path):
    (tmp_path / "store" / "r").mkdir(parents=True)
    uri = (tmp_path / "store").as_uri()
    (tmp_path / "store" / "r" / "x").write_text("x")
    printed = CliRunner().invoke(cli.app, ["fetch", "--storage", uri, "--json"])
    assert json.loads(printed.stdout) == {"storage": uri, "runs": api.stored(uri)} == {"storage": uri, "runs": ["r"]}
    schema = json.loads(CliRunner().invoke(cli.app, ["config", "--schema"]).stdout)
    assert schema == api.schema()
    assert set(schema["properties"]) == {field.name for field in dataclasses.fields(Launch)}
