"""Exchanging a token for a new one at a token endpoint.

A grant is a callable, ``grant(token: Token | None) -> Token``. Any callable that meets the
contract in ``protocol.py`` can be used instead of the built-in grants. To follow an exchange,
read ``oauth.py`` and ``json_refresh.py`` (what is sent), ``base.py``, ``token_endpoint.py``,
``bounded_post.py`` (one POST with a hard deadline), ``answer.py`` (reading the answer) and
``outcomes.py`` (what the answer means), in this order.
"""
