"""``KeyringKey``: the key in the operating system's keyring (extra ``keyring``)."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from typing import Any

from .. import arguments
from ..errors import StoreError, StoreUnavailable
from ..redaction import strip
from ..system.background_call import Call, LeftBehind
from ..system.kernel_lock import KernelLock
from .key_source import KDFParameters, Key, Remembered, found_key, generate_key

_Keys = tuple[Key, ...]


class KeyringKey(Remembered):
    """Keeps the key, and only the key, in the keyring as ``account`` of ``service``.

    >>> store = EncryptedFileStore("tokens", key=KeyringKey("nightly-report"))

    The tokens stay in the store, because keyrings have size limits and no locks. The first save
    creates the key. Raises ``StoreError`` if the keyring keeps nothing or keeps its passwords in
    plain text, and ``StoreUnavailable`` if an unlock dialogue is not answered within ``timeout``
    seconds. The key is read once per process. Thread-safe. Raises ``TypeError`` or ``ValueError``
    at construction for a name that is not a non-empty ``str`` and an unusable ``timeout``.
    """

    def __init__(
        self, service: str, account: str = "token store key", timeout: float = 10.0
    ) -> None:
        arguments.texts(service=service, account=account)
        arguments.seconds(timeout=timeout)
        super().__init__()
        self.service = service
        self.account = account
        self.timeout = timeout

    def after_fork_in_child(self) -> None:
        super().after_fork_in_child()
        self._pending: Call[_Keys] | None = None

    def fetch(self) -> _Keys:
        return self._bounded(self._get)

    def for_writing(self, kdf: KDFParameters | None) -> Key:
        with self._reading:
            if not self.for_reading(kdf):
                self._keys = self._bounded(self._make)
        return super().for_writing(kdf)

    def absence(self) -> str:
        return f"the keyring holds no key for {self.account!r} of {self.service!r}"

    def _get(self) -> _Keys:
        text = _usable_backend().get_password(self.service, self.account)
        if text is None:
            return ()
        return (found_key(text, f"what the keyring holds for {self.service!r}"),)

    def _make(self) -> _Keys:
        """Make the key unless another process has: a second one would replace the first."""
        from platformdirs import user_runtime_dir

        # One place for each user, as the keyring is, whatever HOME says.
        folder = user_runtime_dir("requests-silent-refresh", appauthor=False)
        entry = hashlib.sha256(f"{self.service}\0{self.account}".encode()).hexdigest()[:16]
        lock = KernelLock(os.path.join(folder, f"keyring-{entry}.lock"))
        try:
            with contextlib.suppress(OSError):  # nothing can be written there
                lock.acquire(self.timeout)
            return self._get() or self._make_locked()
        finally:
            lock.release()

    def _make_locked(self) -> _Keys:
        _usable_backend().set_password(self.service, self.account, generate_key())
        # Read it back: some backends silently keep nothing.
        keys = self._get()
        if not keys:
            raise StoreError(
                "the keyring did not keep the key it was given: repair it, or use a KeyFile"
            )
        return keys

    def _bounded(self, ask: Callable[[], _Keys]) -> _Keys:
        """Call ``ask`` in a thread that is left behind if it takes longer than ``timeout``."""
        if self._pending is not None and not self._pending.wait(0):
            raise self._unanswered()
        self._pending = Call(ask, lambda late: None, "keyring")
        try:
            return self._pending.result(self.timeout)
        except LeftBehind:
            raise self._unanswered() from None
        except Exception as error:
            if isinstance(error, StoreError):
                raise
            raise StoreUnavailable(
                f"the keyring failed ({type(error).__name__}): unlock it, or use a KeyFile"
            ) from strip(error)

    def _unanswered(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"the keyring did not answer within {self.timeout:g} s: is it waiting to be unlocked? "
            "If nobody can unlock it, use a KeyFile"
        )

    def __repr__(self) -> str:
        return f"KeyringKey({self.service!r}, {self.account!r})"

    def __reduce__(self) -> Any:
        return type(self), (self.service, self.account, self.timeout)


def _usable_backend() -> Any:
    try:
        import keyring
    except ImportError:
        raise StoreError(
            "KeyringKey needs the keyring package: pip install 'requests-silent-refresh[keyring]'"
        ) from None
    backend: Any = keyring.get_keyring()
    # A chain stores a new password in its first member, so that is the one to check.
    backend = next(iter(getattr(backend, "backends", ())), backend)
    kind = type(backend)
    name = f"{kind.__module__}.{kind.__qualname__}"
    keeps_nothing = name.startswith(("keyring.backends.null", "keyring.backends.fail"))
    if keeps_nothing or name.startswith("keyrings.alt") or "plaintext" in name.lower():
        raise StoreError(
            f"there is no safe keyring here: {name} keeps "
            f"{'nothing' if keeps_nothing else 'its passwords in plain text'}. "
            "Use a KeyFile, or install a keyring service"
        )
    return backend
