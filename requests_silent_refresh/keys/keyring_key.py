"""``KeyringKey``: the key in the operating system's keyring (extra ``keyring``)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..errors import StoreError, StoreUnavailable
from ..redaction import strip
from .key_source import KDFParameters, Key, KeySource, generate_key, read_key

_T = TypeVar("_T")


class KeyringKey(KeySource):
    """Keeps the key, and only the key, in the keyring as ``account`` of ``service``.

    The tokens stay in the store: keyrings have size limits and no locks. The
    key is made with the first save. A keyring that keeps nothing, or keeps it
    in plain text, is refused with ``StoreError``. An unlock dialogue that nobody
    answers is waited for ``timeout`` seconds at most, then ``StoreUnavailable``.
    The key is read once per process. Thread-safe.
    """

    def __init__(
        self, service: str, account: str = "token store key", timeout: float = 10.0
    ) -> None:
        if not service or not account:
            raise ValueError("KeyringKey takes the name of a service, and one of an account")
        self.service = service
        self.account = account
        self.timeout = timeout
        self._keys: tuple[Key, ...] = ()
        self._pending: threading.Thread | None = None

    def for_reading(self, kdf: KDFParameters | None) -> Sequence[Key]:
        if not self._keys:
            self._keys = self._bounded(self._get)
        return self._keys

    def for_writing(self, kdf: KDFParameters | None) -> Key:
        if not self.for_reading(kdf):
            self._keys = self._bounded(self._make)
        return super().for_writing(kdf)

    def forget(self) -> bool:
        known, self._keys = self._keys, ()
        return bool(known)

    def absence(self) -> str:
        return f"the keyring holds no key for {self.account!r} of {self.service!r}"

    def _get(self) -> tuple[Key, ...]:
        text = _usable_backend().get_password(self.service, self.account)
        if text is None:
            return ()
        try:
            return (read_key(text, f"what the keyring holds for {self.service!r}"),)
        except ValueError as error:
            raise StoreError(str(error)) from None

    def _make(self) -> tuple[Key, ...]:
        _usable_backend().set_password(self.service, self.account, generate_key())
        # What counts is what it gives back: another process may have been first,
        # and some backends keep nothing without saying so.
        keys = self._get()
        if not keys:
            raise StoreError(
                "the keyring did not keep the key it was given: use a KeyFile, or mend the keyring"
            )
        return keys

    def _bounded(self, ask: Callable[[], _T]) -> _T:
        """Call ``ask`` in a thread that is left behind when it takes too long."""
        if self._pending is not None and self._pending.is_alive():
            raise self._unanswered()
        answer: list[_T] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                answer.append(ask())
            except BaseException as error:  # noqa: BLE001 (handed on to the caller)
                failure.append(error)

        self._pending = threading.Thread(target=run, daemon=True, name="keyring")
        self._pending.start()
        self._pending.join(self.timeout)
        if failure:
            error = failure[0]
            if isinstance(error, StoreError):
                raise error
            raise StoreUnavailable(
                f"the keyring failed ({type(error).__name__}): unlock it, or use a KeyFile"
            ) from strip(error)
        if not answer:
            raise self._unanswered()
        return answer[0]

    def _unanswered(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"the keyring has not answered for {self.timeout:g} s: is it waiting to be unlocked? "
            "Where nobody can do that, use a KeyFile"
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
    # A chain gives a new password to its first member, and that is the one asked here.
    backend = next(iter(getattr(backend, "backends", ())), backend)
    kind = type(backend)
    name = f"{kind.__module__}.{kind.__qualname__}"
    keeps_nothing = name.startswith(("keyring.backends.null", "keyring.backends.fail"))
    if keeps_nothing or name.startswith("keyrings.alt") or "plaintext" in name.lower():
        raise StoreError(
            f"there is no keyring to trust here: {name} keeps "
            f"{'nothing' if keeps_nothing else 'its passwords in plain text'}. "
            "Use a KeyFile, or install a keyring service"
        )
    return backend
