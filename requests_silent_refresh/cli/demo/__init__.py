"""``demo``: many threads, a server that rotates, and tokens that are revoked in flight."""

from .arguments import main

__all__ = ["main"]
