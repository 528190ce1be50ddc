"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def markdown(results: Mapping[str, Any]) -> str:
    """Return a report on the parts that were run."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = [
        f"Python {machine['python']}, {machine['system']}, {machine['cores']} cores; {versions}.",
        "",
    ]
    for name, value in results.items():
        section = _SECTIONS.get(name, _facts)
        if name not in ("machine", "picture"):
            lines += [f"## {name.capitalize()}", "", *section(value), ""]
    return "\n".join(lines)


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    head = list(head)
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows),
    ]


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _facts(value: Mapping[str, Any]) -> list[str]:
    return _table(
        ("what", "figure"), ((k, v) for k, v in value.items() if not isinstance(v, (list, dict)))
    )


def _instructions(value: Mapping[str, Any]) -> list[str]:
    if "skipped" in value:
        return [value["skipped"]]
    lines: list[str] = []
    for setting, arms in value.items():
        floor = next(iter(arms.values()))
        lines += [f"### {setting}", ""]
        lines += _table(
            ("arm", "instructions for a request", "/ fixed header"),
            ((name, round(each), each / floor) for name, each in arms.items()),
        )
        lines += [""]
    return lines


def _loopback(value: Mapping[str, Mapping[str, float]]) -> list[str]:
    return _table(
        ("arm", "CPU time / fixed header", "least", "most"),
        ((name, r["median"], r["least"], r["most"]) for name, r in value.items()),
    )


def _storm(value: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines: list[str] = []
    for scenario, arms in value.items():
        lines += [f"### {scenario}", "", *_arms(arms), ""]
    return lines


def _arms(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    head = ("arm", "failed", "exchanges", "sessions lost", "slowest request (s)")
    return _table(
        head,
        (
            (name, f"{r['failed']} of {r['of']}", r["exchanges"], r["sessions_lost"], r["slowest"])
            for name, r in arms.items()
        ),
    )


_SECTIONS = {
    "instructions": _instructions,
    "loopback": _loopback,
    "storm": _storm,
    "trouble": _storm,
    "processes": _storm,
}
