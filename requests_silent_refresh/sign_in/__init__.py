"""Ways for a person, or a machine, to get the first token of a session.

:func:`~.browser.with_browser` (authorization code with PKCE and a loopback
redirect), :func:`~.device.with_device` (a code to be entered elsewhere) and
:func:`~.given.read_given` (tokens from somewhere else). None of them stores
anything: they return a :class:`~requests_silent_refresh.Token` or raise, so a
sign-in that fails, or is interrupted, has changed nothing.
"""
