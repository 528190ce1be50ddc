"""Profiles: sign in once, then use the session by name from any script on the machine.

::

    from requests_silent_refresh import profiles

    profiles.load("work").mount_on(session)

The ``silent-refresh`` command creates them; see ``docs/profiles.rst``.
"""

from .profile import Profile, listed, load
from .settings import ProfileError

__all__ = ["Profile", "ProfileError", "listed", "load"]
