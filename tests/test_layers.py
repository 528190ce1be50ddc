"""Each folder imports only from those below it, so that the code reads in one direction."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import requests_silent_refresh

PACKAGE = "requests_silent_refresh"
ROOT = Path(requests_silent_refresh.__file__).parent

# From bottom to top. "." is the package's own files, except ``__main__``.
FLOORS = [
    *(".", "system", "keys", "stores", "grants", "manager", "adapter"),
    *("providers", "testing", "sign_in", "profiles", "cli", "__main__"),
]


def module_of(path: Path) -> str:
    """Return a file's module name in the package: ``stores.file``, or ``keys`` for its init."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def floor_of(module: str) -> int:
    """Return the floor of the module's folder; raises ``ValueError`` if the folder has none."""
    top = module.partition(".")[0]
    return FLOORS.index("." if top not in FLOORS and FILES[top].name != "__init__.py" else top)


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
    """Known imports of each form are found, which proves that the tests below can fail."""
    assert {"token", "stores.contract"} <= GRAPH["manager.manager"]
    assert "adapter.challenge" in GRAPH["adapter.adapter"]
    assert {"errors", "stores.contract"} <= GRAPH["stores.memory"]
    assert "stores.memory" in GRAPH["stores"]


@pytest.mark.parametrize("module", GRAPH)
def test_a_folder_imports_from_the_folders_below_it(module: str) -> None:
    """No module depends on its callers."""
    upward = [name for name in GRAPH[module] if name and floor_of(name) > floor_of(module)]
    assert not upward, f"{module} imports upward: {upward}"


@pytest.mark.parametrize("module", GRAPH)
def test_no_module_imports_the_package_itself(module: str) -> None:
    """The package's public names are for its users; its modules import from each other."""
    assert "" not in GRAPH[module]


def test_no_modules_import_each_other() -> None:
    """There are no import cycles, not even within a folder."""
    graphlib.TopologicalSorter(GRAPH).prepare()


@pytest.mark.parametrize("module", GRAPH)
def test_a_file_can_be_read_at_one_sitting(module: str) -> None:
    """A file has at most 350 lines; a longer one should be two."""
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= 350
