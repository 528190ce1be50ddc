"""Where the keys come from that encrypt a store, and how one takes another's place.

What a store takes as ``key``:

- a Fernet key, ``bytes`` or ``str``, as :func:`generate_key` makes it;
- a callable without arguments that returns one, or several (a KMS,
  :class:`~requests_silent_refresh.secret_sources.FromEnvironment`,
  :class:`~requests_silent_refresh.secret_sources.FromFile`);
- :class:`KeyFile`, :class:`Passphrase` or :class:`KeyringKey`;
- a sequence of these: the first encrypts, all decrypt. That is how keys rotate:
  put the new one in front, let ``store.rotate_key()`` encrypt what is stored
  anew, take the old one away.
- ``None``: :func:`default_key_file`.

*The default key file protects tokens that leave the machine without their key,
not from anyone who can run code as you.*
"""

from .ciphers import Cipher, KeyLike, Keys, as_source
from .key_file import KeyFile, default_key_file
from .key_source import KDFParameters, KeySource, generate_key
from .keyring_key import KeyringKey
from .passphrase import Passphrase

__all__ = [
    "Cipher",
    "KDFParameters",
    "KeyFile",
    "KeyLike",
    "KeySource",
    "KeyringKey",
    "Keys",
    "Passphrase",
    "as_source",
    "default_key_file",
    "generate_key",
]
