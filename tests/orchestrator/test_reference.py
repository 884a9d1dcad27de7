from orchestrator.reference import PATH, reference


def test_the_configuration_reference_is_that_of_the_code():
    assert PATH.read_text(encoding="utf-8") == reference(), "write it anew: python -m orchestrator.reference"


def test_it_has_a_row_for_settings_of_every_kind():
    text = reference()
    assert "| `search.epochs` | `70` | `2` | `3` | `15` | a whole number (epochs), at least 1 |" in text
    assert "| `data_sets[].path` |" in text
    assert "| `resources.retries` | `2` | a whole number, at least 0 |" in text
