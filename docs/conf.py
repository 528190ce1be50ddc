"""Settings of the documentation site: ``sphinx-build -W -n docs site``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.metadata import metadata

from docutils import nodes
from sphinx.application import Sphinx

project = "requests-silent-refresh"
release = metadata(project)["Version"]
copyright = "the requests-silent-refresh authors"  # noqa: A001 (Sphinx's name)

extensions = ["sphinx.ext.autodoc", "sphinx_click", "sphinx_copybutton"]
html_theme = "furo"
html_title = f"{project} {release}"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_default_options = {
    "exclude-members": "after_fork_in_child",
    "special-members": "__getitem__",
}
autodoc_typehints = "none"  # the signature has them
add_module_names = False
python_use_unqualified_type_names = True
# Other projects' names are linked where their inventories can be fetched.
if os.environ.get("READTHEDOCS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "requests": ("https://requests.readthedocs.io/en/latest", None),
        "urllib3": ("https://urllib3.readthedocs.io/en/stable", None),
    }
nitpick_ignore_regex = [
    (r"py:.*", r"(?!requests_silent_refresh)[a-z_]+\.\S*"),  # of another project
    (r"py:.*", r"[a-z]+|[A-Z]\w?|TracebackType"),  # builtins and type variables
]


def places(app: Sphinx) -> dict[str, set[tuple[str, str]]]:
    """Return where each public name is described, by its last part, its last two, and in full."""
    found: dict[str, set[tuple[str, str]]] = {}
    for name, entry in app.env.domaindata["py"]["objects"].items():
        if entry.objtype != "module":
            for known in (name.rpartition(".")[2], ".".join(name.split(".")[-2:]), name):
                found.setdefault(known, set()).add((entry.docname, entry.node_id))
    return found


def link(app: Sphinx, page: str, name: str, content: nodes.Node) -> nodes.reference | None:
    """Return a link to the one place that describes ``name``; ``None`` if there is none."""
    found = places(app).get(name, set())
    if len(found) != 1:
        return None
    ((other, anchor),) = found
    uri = app.builder.get_relative_uri(page, other) + "#" + anchor
    return nodes.reference("", "", content, internal=True, refuri=uri)


def link_names(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Link ``Token``, ``manager.sign_in()`` or ``stores.rst`` in the text to where it is described.

    So the sources are readable as they are, without a role for each name.
    """
    for literal in list(doctree.findall(nodes.literal)):
        if any(isinstance(parent, nodes.reference) for parent in parents_of(literal)):
            continue
        text = literal.astext()
        other = text.removeprefix("docs/").removesuffix(".rst")
        if text.endswith(".rst") and other in app.env.found_docs:
            title = nodes.inline("", app.env.titles[other].astext())
            uri = app.builder.get_relative_uri(page, other)
            literal.replace_self(nodes.reference("", "", title, internal=True, refuri=uri))
            continue
        name = re.sub(r"^(manager|adapter|store)\.", lambda m: OBJECTS[m[1]] + ".", text)
        reference = link(app, page, name.partition("(")[0], literal.deepcopy())
        if reference is not None:
            literal.replace_self(reference)


def link_unqualified(
    app: Sphinx, env: object, node: nodes.Element, content: nodes.Node
) -> nodes.reference | None:
    """Resolve a reference in a docstring to a public name of another module."""
    return link(app, node["refdoc"], node["reftarget"], content)


def parents_of(node: nodes.Node) -> Iterator[nodes.Node]:
    while node.parent is not None:
        node = node.parent
        yield node


OBJECTS = {"manager": "TokenManager", "adapter": "SilentRefreshAdapter", "store": "TokenStore"}


def setup(app: Sphinx) -> None:
    app.connect("doctree-resolved", link_names)
    app.connect("missing-reference", link_unqualified)
