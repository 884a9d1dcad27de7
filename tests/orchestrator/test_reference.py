from orchestrator.launch import ALL_BUDGETS
from orchestrator.reference import PATH, PROFILE_PATH, profile_reference, reference


def test_the_configuration_reference_is_that_of_the_code():
    assert PATH.read_text(encoding="utf-8") == reference(), "write it anew: python -m orchestrator.reference"


def test_the_reference_of_profiles_is_that_of_the_code():
    assert PROFILE_PATH.read_text(encoding="utf-8") == profile_reference(), "python -m orchestrator.reference"


def test_it_has_a_row_for_settings_of_every_kind():
    text = reference()
    budgets = " | ".join(f"`{ALL_BUDGETS[name]['search']['epochs']}`" for name in ("demo", "smoke", "short"))
    assert f"| `search.epochs` | `70` | {budgets} | a whole number (epochs), at least 1 |" in text
    assert "| `data_sets[].path` |" in text
    assert "| `resources.retries` | `2` | a whole number, at least 0 |" in text
