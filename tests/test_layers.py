"""Imports go downward only: who follows a request reads the files once down and once up."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import requests_silent_refresh

PACKAGE = "requests_silent_refresh"
ROOT = Path(requests_silent_refresh.__file__).parent

# From the bottom to the top. A name stands for a module, or for all of a folder.
LAYERS = [
    {"errors", "redaction", "forking"},
    {
        *("token", "origin", "challenge", "connections", "files", "locks", "calls"),
        *("sources", "keys"),
    },
    {
        *("answer", "exchange", "token_endpoint", "outcomes", "grant", "grants", "json_refresh"),
        "stores",
    },
    {
        *("batch", "freshness", "futility", "refresh_queue", "keeper", "asking", "refresher"),
        *("worker", "backoff", "events", "uploads", "manager"),
    },
    {"replay", "drain", "boundary", "adapter"},
    {"discovery", "sign_in", "profiles", "testing", "cli", "__main__"},
]


def module_of(path: Path) -> str:
    """Return a file's module name below the package: ``stores.file``, ``keys`` for its init."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def layer_of(module: str) -> int:
    """Return the layer's number; the test fails where a module has none."""
    for number, layer in enumerate(LAYERS):
        if module.partition(".")[0] in layer:
            return number
    raise AssertionError(f"{module}: a new module gets its layer in {Path(__file__).name}")


def imports_of(module: str) -> Iterator[str]:
    """Yield the modules of the package that ``module`` imports, anywhere in its code."""
    path = FILES[module]
    package = [PACKAGE, *module.split(".")]
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            bases = [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            bases = [(base, [alias.name for alias in node.names])]
        else:
            continue
        for base, names in bases:
            if base.partition(".")[0] == PACKAGE:
                inside = base.removeprefix(PACKAGE).removeprefix(".")
                below = {f"{inside}.{name}".removeprefix(".") for name in names} & set(FILES)
                yield from below or {inside}


GRAPH = {module: set(imports_of(module)) for module in FILES if module}


def test_the_parser_of_this_test_sees_the_imports() -> None:
    """Known imports of each form are found, so that the tests below can fail."""
    assert {"token", "stores.contract"} <= GRAPH["manager"]
    assert "challenge" in GRAPH["adapter"]
    assert {"errors", "stores.contract"} <= GRAPH["stores.memory"]
    assert "stores.memory" in GRAPH["stores"]


@pytest.mark.parametrize("module", GRAPH)
def test_a_module_imports_from_its_own_layer_or_below(module: str) -> None:
    """Nothing below knows who called it."""
    upward = [name for name in GRAPH[module] if name and layer_of(name) > layer_of(module)]
    assert not upward, f"{module} imports upward: {upward}"


@pytest.mark.parametrize("module", GRAPH)
def test_no_module_imports_the_package_itself(module: str) -> None:
    """The package's own names are for its users; inside, a module names the module it means."""
    assert "" not in GRAPH[module]


def test_no_modules_import_each_other() -> None:
    """Within a layer, too, there is one reading direction."""
    graphlib.TopologicalSorter(GRAPH).prepare()


@pytest.mark.parametrize("module", sorted(GRAPH.keys() - {"testing.store_contract"}))
def test_a_file_can_be_read_at_one_sitting(module: str) -> None:
    """About 300 lines: what grows beyond 400 is two things (a suite of tests is a list)."""
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= 400
