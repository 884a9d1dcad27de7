"""The arrows between the packages, and the files that alone import a big library."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "models": set(),
    "search": {"models"},
    "clusters": set(),
    "orchestrator": {"search", "models", "clusters"},
}
FORBIDDEN = {
    "models": {"ray", "mlflow", "pydantic", "typer", "rich"},
    "search": {"ray", "mlflow", "pydantic", "typer", "rich"},
    "clusters": {"mlflow", "torch", "pydantic", "typer"},
    "orchestrator": set(),
}
ALONE = {
    "mlflow": ["orchestrator/tracking.py"],
    "ray.tune": ["orchestrator/fleet.py"],
    "ray.train": ["orchestrator/supernet_trainer.py"],
}


def imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_along_the_arrows(package):
    assert files(package)
    ours = set(ALLOWED) - ALLOWED[package] - {package}
    for path in files(package):
        tops = {name.partition(".")[0] for name in imports(path)}
        assert not tops & ours, f"{path} imports {tops & ours}"
        assert not tops & FORBIDDEN[package], f"{path} imports {tops & FORBIDDEN[package]}"


@pytest.mark.parametrize("library", ALONE)
def test_a_big_library_is_imported_in_one_file(library):
    importing = [
        str(path.relative_to(ROOT))
        for package in ALLOWED
        for path in files(package)
        if any(name == library or name.startswith(f"{library}.") for name in imports(path))
    ]
    assert importing == ALONE[library]


def test_tests_are_no_package():
    # A tests/models/__init__.py would shadow `models`.
    assert not list((ROOT / "tests").rglob("__init__.py"))
