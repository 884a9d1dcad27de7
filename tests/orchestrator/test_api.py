import threading

import pytest

from orchestrator import api
from orchestrator.config import ConfigError
from search.errors import InputError


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
    assert api.show_all(runs=tmp_path / "runs") == [again]
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
