"""Token stores: one contract, and a module for each kind."""

from .contract import Hold, State, StateMoved, TokenStore
from .memory import MemoryStore

__all__ = ["Hold", "MemoryStore", "State", "StateMoved", "TokenStore"]
