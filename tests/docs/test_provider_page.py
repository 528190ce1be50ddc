"""The page of the providers agrees with the data that it is made from."""

from __future__ import annotations

from provider_page import PAGE, page


def test_the_page_is_what_the_data_make():
    """After a change of the data, run ``python tests/docs/provider_page.py``."""
    assert PAGE.read_text(encoding="utf-8") == page()
