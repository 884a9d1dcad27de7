"""Every departure in the code has its row in the documentation, and the other way round."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_departures_in_code_and_documentation_are_the_same():
    code = {
        name
        for package in ("models", "search", "clusters", "orchestrator")
        for path in (ROOT / package).rglob("*.py")
        for name in re.findall(r"DEPARTURE\(([a-z0-9-]+)\)", path.read_text())
    }
    text = (ROOT / "docs/departures.md").read_text().split("## Departures")[1].split("##")[0]
    documented = set(re.findall(r"^\| ([a-z0-9]+(?:-[a-z0-9]+)+) \|", text, re.MULTILINE))
    assert code
    assert code == documented
