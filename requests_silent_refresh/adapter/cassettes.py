"""Lets recorders of HTTP traffic, such as vcrpy, write a request's headers to YAML: masked."""

from __future__ import annotations

import sys
from typing import Any

from ..patterns import MASK
from ..redaction import HeaderValue


def mask_in_yaml() -> None:
    """Make PyYAML, if the program has imported it, write the token's header as ``***``.

    PyYAML cannot represent a subclass of ``str`` as a plain string unless it is told how to.
    """
    yaml: Any = sys.modules.get("yaml")
    for name in ("SafeDumper", "CSafeDumper", "Dumper", "CDumper"):
        dumper = getattr(yaml, name, None)
        if dumper is not None:
            dumper.add_representer(HeaderValue, _represent)


def _represent(dumper: Any, value: HeaderValue) -> Any:
    return dumper.represent_str(MASK)
