"""``demo``: many threads, a server that rotates, and tokens that end while they are in flight."""

from .arguments import add_to

__all__ = ["add_to"]
