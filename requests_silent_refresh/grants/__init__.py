"""Exchanging a token for a new one at a token endpoint.

A grant is a callable, ``grant(token: Token | None) -> Token``, and any callable of your
own that does the same can take its place: ``protocol.py`` says what it must do. Follow an
exchange in this order: ``oauth.py`` and ``json_refresh.py`` (what is sent), ``base.py``,
``token_endpoint.py``, ``bounded_post.py`` (one POST, over at its deadline),
``answer.py`` (reading the answer), ``outcomes.py`` (what it means).
"""
