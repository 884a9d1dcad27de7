# ruff: noqa: E501 - a table of messages
import dataclasses
import json
from pathlib import Path

import pytest

from orchestrator.config import ConfigError, Layer, data_sets_layer, file_layer, resolve, set_layer
from orchestrator.files import InvalidYamlError
from orchestrator.launch import ALL_BUDGETS, Launch
from orchestrator.schema import dotted_keys, model_of
from search.settings import Settings


def from_file(folder: Path, text: str) -> Launch:
    path = folder / "c.yaml"
    path.write_text(text)
    return resolve([file_layer(path)], default_budget="smoke")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search: {epoch: 5}", "search.epoch: no such setting; did you mean search.epochs?"),
        ("epochs: 5", "epochs: no such setting here; did you mean search.epochs or retrain.epochs or supernet.epochs or finetune.epochs?"),
        ("runtime: {test_threshold: 0.5}", "runtime.test_threshold: no such setting here; did you mean retrain.test_threshold?"),
        ("serch: {epochs: 5}", "serch: no such setting; did you mean search?"),
        ("search: {epochs: 0}", "search.epochs: 0 is not allowed; allowed: a whole number (epochs), at least 1"),
        ("search: {epochs: '5'}", "search.epochs: '5' is not allowed; allowed: a whole number (epochs), at least 1"),
        ("search: {epochs: true}", "search.epochs: True is not allowed; allowed: a whole number (epochs), at least 1"),
        ("search: {epochs: 2.5}", "search.epochs: 2.5 is not allowed; allowed: a whole number (epochs), at least 1"),
        ("search: {weight_lr: .nan}", "search.weight_lr: nan is not allowed; allowed: a number, above 0"),
        (
            "data: {image_size: 65}",
            "data.image_size: 65 is not allowed; allowed: a whole number (px), at least 32, a multiple of 8",
        ),
        (
            "data: {window: of}",
            "data.window: 'of' is not allowed; allowed: a whole number (px), at least 16, or one of auto, off",
        ),
        ("data: {window: 8}", "data.window: 8 is not allowed; allowed: a whole number (px), at least 16, or one of auto, off"),
        (
            "data: {augment: [hflip, spin]}",
            "data.augment: ['hflip', 'spin'] is not allowed; "
            "allowed: a list, each one of hflip, vflip, rotate90, brightness, contrast, noise",
        ),
        ("budget: huge", "budget: 'huge' is not allowed; allowed: one of demo, smoke, short, paper"),
        ("data_sets: [{name: x}]", "data_sets.0.path: missing; needed is a text"),
        (
            "data_sets: [{path: x, settings: {imagesize: 64}}]",
            "data_sets.0.settings.imagesize: no such setting; did you mean data_sets.0.settings.image_size?",
        ),
        ("network: {operators: [zero, identity, sepconv_3x3, sep_conv_5x5, sep_conv_7x7, max_pool_3x3, avg_pool_3x3, channel_att]}",
         "network.operators: no operator 'sepconv_3x3'; did you mean sep_conv_3x3?"),
        ("network: {operators: [zero, identity, zero, sep_conv_5x5, sep_conv_7x7, max_pool_3x3, avg_pool_3x3, channel_att]}",
         "network.operators: an operator is given twice"),
        ("search: {keep: [7, 7, 1]}", "search.keep: [7, 7, 1] is not allowed; needed is a falling list that ends in 1, as [7, 4, 2, 1]"),
        ("search: {keep: [4, 2]}", "search.keep: [4, 2] is not allowed; needed is a falling list that ends in 1, as [7, 4, 2, 1]"),
        ("search: {keep: [11, 1]}", "search.keep: the first stage keeps 11 of 11 network.operators; it has to keep fewer"),
        ("search: {epochs: 3, warmup_epochs: 3}", "search.warmup_epochs: 3 leaves no epoch for the alphas; needed is less than search.epochs (3)"),
        ("retrain: {select: best_val}", "retrain.select: best_val selects by held-out images: give retrain.validation_fraction above 0"),
        ("network: {fusion_reduction: 993}", "network.fusion_reduction: 993 leaves no hidden unit of the 992 channels joined; needed is at most 992"),
        ("runtime: {device: gpu}", "runtime.device: 'gpu' is not allowed; allowed: auto, cpu, cuda, cuda:N"),
        ("{runtime: {device: 'cuda:1'}, resources: {workers: 2}}", "runtime.device: cuda:1 is one device for 2 workers; give auto"),
        ("latency: {node: t4}", "latency.node: 't4' is not allowed; allowed: a label, as KEY=VALUE"),
        ("{resources: {least_workers: 2}}", "resources.least_workers: 2 is more than resources.workers, 1"),
        ("{search: {batch: 4}, retrain: {batch: 8}, resources: {workers: 4}}", "search.batch: 4 tiles for 4 workers; needed is at least 8"),
        ("{method: random, baseline: random}", "baseline: random is the method itself; allowed: none"),
        ("data_sets: [{path: x, name: a/b}]", "data_sets.0.name: 'a/b' is not allowed; allowed: letters, digits, '.', '_' and '-', first none of '.-'"),
        ("data_sets: [{path: x, name: n}, {path: y, name: n}]", "data_sets.1.name: 'n' names two data sets; give each a name of its own"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_file_key_and_what_is_allowed(tmp_path, text, message):
    with pytest.raises(ConfigError) as raised:
        from_file(tmp_path, text)
    # Two problems make two lines: a name given twice is also two trials of one name.
    assert str(raised.value).splitlines()[0] == f"{tmp_path / 'c.yaml'}: {message}"


def test_every_problem_has_its_line_and_origin(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("retrain: {lr: -1}\nsearch: {epochs: 0}\n")
    with pytest.raises(ConfigError) as raised:
        resolve(
            [file_layer(path), Layer("--seeds", {"seeds": 0}), set_layer(["search.epochs=none"])],
            budget="smoke",
        )
    assert str(raised.value).splitlines() == [
        "--seeds: seeds: 0 is not allowed; allowed: a whole number (seeds), at least 1",
        "--set: search.epochs: 'none' is not allowed; allowed: a whole number (epochs), at least 1",
        f"{path}: retrain.lr: -1 is not allowed; allowed: a number, above 0",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1, 2]", "a mapping of settings is needed"),
        (b"\xff\xfe\x00", "cannot be read as a configuration file"),
        (b"seed: !!timestamp 2026-01-01", "settings are texts, numbers, booleans, lists and mappings"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content, message):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as raised:
        file_layer(path)
    assert str(path) in str(raised.value)


def test_a_missing_file_and_bad_yaml_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"c\.yaml: cannot be read"):
        file_layer(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("search: [")
    with pytest.raises(InvalidYamlError, match=r"c\.yaml: line 1"):
        file_layer(tmp_path / "c.yaml")


def test_an_empty_file_changes_nothing(tmp_path):
    assert from_file(tmp_path, "# nothing\n") == resolve([], default_budget="smoke")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [("search.epochs", "'=' and a value are needed"), ("=5", "'=' and a value are needed")],
)
def test_an_assignment_without_key_or_value_is_refused(assignment, message):
    with pytest.raises(ConfigError, match=message):
        set_layer([assignment])


def test_budget_is_weaker_than_file_is_weaker_than_set(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("search: {epochs: 7, warmup_epochs: 2}\nretrain: {epochs: 9}\n")
    launch = resolve([file_layer(path), set_layer(["search.epochs=8"])], budget="smoke")
    assert (launch.search.epochs, launch.search.warmup_epochs, launch.retrain.epochs) == (8, 2, 9)
    assert launch.data.image_size == ALL_BUDGETS["smoke"]["data"]["image_size"]
    assert launch.loss == Launch().loss


def test_the_budget_of_the_option_is_stronger_than_that_of_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("budget: short\n")
    assert resolve([file_layer(path)]).search.epochs == ALL_BUDGETS["short"]["search"]["epochs"]
    assert resolve([file_layer(path)], budget="smoke").budget == "smoke"
    assert resolve([file_layer(path)], budget="smoke").search.epochs == ALL_BUDGETS["smoke"]["search"]["epochs"]


@pytest.mark.parametrize("budget", ALL_BUDGETS)
def test_every_budget_passes_its_own_checks(budget):
    assert resolve([], budget=budget).budget == budget


def test_the_paper_budget_is_the_defaults():
    launch = resolve([], budget="paper")
    defaults = Settings()
    for section in ("data", "network", "loss", "search", "retrain", "runtime"):
        assert getattr(launch, section) == getattr(defaults, section)


def test_the_resolved_configuration_reads_back_the_same(tmp_path):
    layers = [
        Layer("file", {"data_sets": [{"path": str(tmp_path / "a"), "settings": {"image_size": 96, "augment": ["noise"]}}]}),
        set_layer(["search.weight_lr=1e-3", "data.window=off", "data.augment=[hflip]", "seeds=2", "tracking.uri=http://h:5000"]),
    ]  # fmt: skip
    launch = resolve(layers, budget="smoke")
    again = from_file(tmp_path, launch.to_yaml())
    assert again == launch
    assert again.trials() == launch.trials()
    assert from_file(tmp_path, again.to_yaml()) == again


def test_settings_of_one_data_set_hold_for_it_alone(tmp_path):
    text = "data_sets: [{path: a, settings: {image_size: 96}}, b]\ndata: {image_size: 64}\n"
    first, second = from_file(tmp_path, text).trials()
    assert (first.settings.data.image_size, second.settings.data.image_size) == (96, 64)
    assert first.settings.network == second.settings.network


def test_folders_in_a_file_are_seen_from_the_file(tmp_path):
    launch = from_file(tmp_path, "data_sets: [../a, {path: b}]")
    assert [data_set.path for data_set in launch.data_sets] == [
        str(tmp_path.parent / "a"),
        str(tmp_path / "b"),
    ]


def test_data_sets_of_one_folder_name_are_told_apart_by_their_parents():
    launch = resolve([data_sets_layer([Path("/x/KSDD"), Path("/y/KSDD"), Path("/y/MT")])], budget="smoke")
    assert [data_set.name for data_set in launch.data_sets] == ["x-KSDD", "y-KSDD", "MT"]


def test_a_folder_given_twice_is_refused():
    with pytest.raises(ConfigError, match=r"--data: data_sets\.1: /x/KSDD is given twice"):
        resolve([data_sets_layer([Path("/x/KSDD"), Path("/x/KSDD")])], budget="smoke")


def test_trials_are_data_sets_by_seeds_by_methods():
    layers = [
        data_sets_layer([Path("/x/A"), Path("/x/B")]),
        set_layer(["seeds=2", "seed=3", "baseline=random"]),
    ]
    trials = resolve(layers, budget="smoke").trials()
    assert [trial.record.name for trial in trials] == [
        "A-s3", "A-random-s3", "A-s4", "A-random-s4", "B-s3", "B-random-s3", "B-s4", "B-random-s4",
    ]  # fmt: skip
    assert [trial.settings.seed for trial in trials[:4]] == [3, 3, 4, 4]
    # The baseline is trained as the search's network is: all its settings are the same.
    assert trials[0].settings == trials[1].settings


def test_two_trials_of_one_name_are_refused():
    layers = [
        Layer("f", {"data_sets": [{"path": "/x/A"}, {"path": "/x/A-random"}]}),
        set_layer(["baseline=random"]),
    ]
    with pytest.raises(ConfigError, match="two trials would be called A-random-s0"):
        resolve(layers, budget="smoke")


def test_the_settings_of_a_trial_are_all_reachable():
    keys = set(dotted_keys(Launch))
    for section in dataclasses.fields(Settings):
        if section.name != "seed":
            own = {f"{section.name}.{field.name}" for field in dataclasses.fields(getattr(Settings(), section.name))}
            assert own <= keys
    assert "seed" in keys


def test_the_json_schema_carries_help_bounds_and_defaults():
    schema = model_of(Launch).model_json_schema()
    size = schema["$defs"]["DataSettings"]["properties"]["image_size"]
    assert (size["minimum"], size["multipleOf"], size["default"]) == (32, 8, 256)
    assert size["description"].startswith("side of the square tile")
    assert schema["additionalProperties"] is False
    json.dumps(schema)


@pytest.mark.parametrize(
    ("section", "values", "same"),
    [
        ("retrain", {"test_threshold": 0.4}, False),
        ("runtime", {"precision": "bfloat16"}, False),
        ("runtime", {"threads": 3, "form": "plain"}, True),
    ],
)
def test_settings_that_decide_scores_decide_the_digest(section, values, same):
    changed = dataclasses.replace(getattr(Settings(), section), **values)
    assert (dataclasses.replace(Settings(), **{section: changed}).digest() == Settings().digest()) is same
