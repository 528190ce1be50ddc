"""Sources of the keys that encrypt a store, and how to rotate those keys.

A store accepts these values as ``key``:

- a Fernet key, ``bytes`` or ``str``, as :func:`generate_key` makes it;
- a callable without arguments that returns one key or several (a KMS,
  :class:`~requests_silent_refresh.secret_sources.FromEnvironment`,
  :class:`~requests_silent_refresh.secret_sources.FromFile`);
- :class:`KeyFile`, :class:`Passphrase` or :class:`KeyringKey`;
- a sequence of these: the first encrypts, all of them decrypt. To rotate keys,
  put the new key first, call ``store.rotate_key()`` to encrypt the stored state
  again, and remove the old key;
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
