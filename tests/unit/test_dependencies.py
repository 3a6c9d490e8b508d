"""What the packages import is declared in pyproject.toml, and pinned in constraints.txt."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = {"feature_repo", "ml", "pipelines", "serving"}
TESTS_ONLY = {"hypothesis"}
"""Imported where `pitwall conformance --examples` asks for generated cases; the command says that it is needed."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> set[str]:
    """Top-level modules that the packages import, anywhere in a file."""
    found: set[str] = set()
    for package in sorted(OURS):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return found - OURS - set(sys.stdlib_module_names) - TESTS_ONLY


def test_what_is_imported_is_declared_and_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    declared = {canonical(re.split(r"[\[<>=~! ]", line)[0]) for line in [*project["dependencies"], *extras]}
    declared |= {"redis", "psycopg", "py4j"}  # of feast[redis], feast[postgres] and pyspark
    distributions = packages_distributions()
    undeclared = {
        module: distributions.get(module, ["not installed"])
        for module in imported()
        if not {canonical(name) for name in distributions.get(module, [])} & declared
    }
    assert undeclared == {}
    pinned = {canonical(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    assert declared - pinned == set()
