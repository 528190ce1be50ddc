"""Ways for a person or a machine to get the first token of a session.

:func:`~.browser.with_browser` (authorization code with PKCE and a loopback redirect),
:func:`~.device.with_device` (a code to enter on another device), :func:`~.client.as_client`
(client credentials) and :func:`~.from_elsewhere.read_given` (tokens obtained elsewhere). They
store nothing: each returns a :class:`~requests_silent_refresh.Token` or raises, so a sign-in
that fails or is interrupted changes nothing.
"""
