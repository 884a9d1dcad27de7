"""How every benchmark gives its result."""

import json
from pathlib import Path
from typing import Any


def give(result: Any, file: Path | None) -> None:
    """Print a result as one JSON object on standard output, and write it to a file where one is named."""
    text = json.dumps(result, indent=1)
    if file:
        file.write_text(text)
    print(text)
