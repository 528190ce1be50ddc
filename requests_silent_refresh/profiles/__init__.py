"""Profiles: a person signs in once, and every script on the machine just works.

::

    from requests_silent_refresh import profiles

    profiles.load("work").mount_on(session)

The ``silent-refresh`` command makes them; see ``docs/profiles.rst``.
"""

from .profile import Profile, listed, load
from .settings import ProfileError

__all__ = ["Profile", "ProfileError", "listed", "load"]
