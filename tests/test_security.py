"""What must not be in the four packages, read off their source: ways from data to code, and from text to a shell."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "search", "clusters", "orchestrator")

CALLS = {
    *("eval", "exec", "compile", "__import__"),
    *("torch.load", "torch.save", "torch.jit.load", "torch.package", "torch.hub.load", "load_state_dict_from_url"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.full_load_all", "yaml.unsafe_load_all"),
    *("os.system", "os.popen", "os.execv", "os.execvp", "os.execve", "os.spawnv", "subprocess.getoutput"),
    *("importlib.import_module", "tempfile.mktemp", "shutil.unpack_archive", "numpy.fromregex"),
    *("pd.read_pickle", "pandas.read_pickle", "ssl._create_unverified_context", "os.umask"),
}
METHODS = {"extractall", "read_pickle", "to_pickle", "load_extension"}
"""Methods that are refused whatever they are called on."""

KEYWORDS = {
    ("shell", True), ("allow_pickle", True), ("trust_remote_code", True), ("weights_only", False), ("verify", False),
}  # fmt: skip
IMPORTS = {
    "pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "ray.cloudpickle", "pty", "telnetlib",
    "ftplib", "xmlrpc", "code", "codeop", "jsonpickle", "tarfile", "zipfile",
}  # fmt: skip

ALLOWED = {
    ("orchestrator/files.py", "yaml.load"): "its loader is a SafeLoader, which makes plain values only",
    ("orchestrator/cli_cluster.py", "os.execv"): "this program in its own place, words as a list, no shell",
    ("search/trial.py", "importlib.import_module"): "one of the methods, by a table of the program",
    ("orchestrator/group.py", "importlib.import_module"): "module:function is a constant of the program or of a test",
}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def found_in(source: str) -> set[str]:
    """Return the refused calls, methods, keywords and imports of a source text."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & IMPORTS
        elif isinstance(node, ast.ImportFrom):
            names = {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
            found |= names & (IMPORTS | CALLS)
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            found |= {name} & CALLS
            found |= {name.rpartition(".")[2]} & METHODS
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                if any(keyword.arg == word and value is refused for word, refused in KEYWORDS):
                    found.add(f"{keyword.arg}={value}")
    return found


def test_no_data_becomes_code_and_no_text_a_shells():
    found = {
        (path.relative_to(ROOT).as_posix(), what)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for what in found_in(path.read_text(encoding="utf-8"))
    }
    assert found == set(ALLOWED), "give a reason in ALLOWED, or better, do without"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import torch\ntorch.load('x')", "torch.load"),
        ("from torch import load", "torch.load"),
        ("import pickle", "pickle"),
        ("from ray import cloudpickle", "ray.cloudpickle"),
        ("eval(text)", "eval"),
        ("import yaml\nyaml.unsafe_load(text)", "yaml.unsafe_load"),
        ("subprocess.run(text, shell=True)", "shell=True"),
        ("np.load(path, allow_pickle=True)", "allow_pickle=True"),
        ("archive.extractall(folder)", "extractall"),
        ("model(name, trust_remote_code=True)", "trust_remote_code=True"),
    ],
)
def test_the_search_would_find_them(source, what):
    assert found_in(source) == {what}


def test_the_loader_of_yaml_makes_plain_values_only():
    import yaml

    from orchestrator.files import InvalidYamlError, _Loader, parse_yaml

    assert issubclass(_Loader, yaml.SafeLoader)
    for text in ("!!python/object/apply:os.system [ls]", "!!python/name:os.system", "a: !!python/tuple [1]"):
        with pytest.raises(InvalidYamlError):
            parse_yaml(text, "test")


def test_every_measure_of_the_threat_model_has_a_test_that_exists():
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"tests/[\w/]+\.py", text))
    assert len(named) >= 8
    assert [name for name in named if not (ROOT / name).exists()] == []
