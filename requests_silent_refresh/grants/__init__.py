"""Exchanging a token for a new one at a token endpoint; ``protocol.py`` says what a grant is."""
