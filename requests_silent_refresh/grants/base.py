"""``Grant``: the base class of all grants."""

from __future__ import annotations

import base64
import contextlib
import logging
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote_plus

import requests

from .. import arguments
from ..errors import RefreshFailed, RefreshUnavailable, SessionExpired, SilentRefreshError
from ..redaction import Secret, strip
from ..secret_sources import ask
from ..system.foreign import account_of
from ..token import Token
from . import outcomes
from .answer import EndpointAnswer, NoAnswer, Outcome
from .token_endpoint import TokenEndpoint

logger = logging.getLogger("requests_silent_refresh")

T = TypeVar("T")

# Fields and headers whose literal value must not be pickled; "client_assertion_type" may be.
_SECRET_NAME = re.compile(
    r"(?i)(?!.*_type\Z).*(secret|token|key|password|passphrase|assertion|authorization|cookie)"
)


class Message(NamedTuple):
    """What is sent to an endpoint, and the secrets in it, which the answer may quote."""

    body: bytes
    headers: Mapping[str, str]
    secrets: Sequence[Secret]


class Grant:
    """Exchanges a token for a new one at one endpoint. Immutable and thread-safe.

    A call blocks for at most ``timeout`` seconds in total, whatever the network does. Only a
    callable supplied by the user (the source of a secret, ``classify``) can block it longer.
    No connection, cookie or answer is kept between calls. The exceptions that a call raises
    hold no secret, and neither do their causes and the variables of their frames.
    """

    #: Whether an exchange spends the refresh token.
    rotates = True
    #: Whether an exchange needs an existing token.
    needs_sign_in = True
    #: Whether that token must have a refresh token.
    needs_refresh_token = True

    def __init__(
        self,
        endpoint: TokenEndpoint,
        rule: Callable[[EndpointAnswer], outcomes.Verdict],
        *,
        timeout: float,
        classify: outcomes.Classify | None,
        ambiguous_retry: bool,
    ) -> None:
        arguments.seconds(timeout=timeout)
        arguments.functions(**arguments.given(classify=classify))
        arguments.flags(ambiguous_retry=ambiguous_retry)
        #: Seconds that one exchange may take in total.
        self.timeout = timeout
        self._endpoint = endpoint
        self._rule = rule
        self._classify = classify
        self._ambiguous_retry = ambiguous_retry

    def __call__(self, token: Token | None) -> Token:
        """Exchange ``token`` and return the new one.

        Raises ``SessionExpired`` if the server refuses, ``RefreshFailed`` if a retry cannot
        help, and ``RefreshUnavailable`` if a retry may help.
        """
        result = contained(lambda: self._exchange(token))
        if isinstance(result, SilentRefreshError):
            raise result  # raised here, so that no frame of its traceback holds a secret
        return result

    @property
    def identity(self) -> str:
        """The server that tokens of this grant belong to, and the client if there is one.

        A stored session of another identity is never used with this grant.
        """
        return self._endpoint.identity

    def revoke(self, token: Token) -> bool:
        """Revoke ``token`` at the server; return ``False`` if the server offers no way to."""
        return False

    def __getstate__(self) -> dict[str, Any]:
        for name in self._literal_secrets():
            raise TypeError(
                f"cannot pickle a {type(self).__name__} that holds {name} as a literal, because "
                "the pickle would contain the secret: pass a callable that returns it, such as "
                "secret_sources.FromEnvironment('NAME') or secret_sources.FromFile('/path')"
            )
        return dict(self.__dict__)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown_endpoint!r})"

    @property
    def _shown_endpoint(self) -> str:
        # Not set yet in the traceback of a constructor that raised.
        return str(getattr(self, "_endpoint", "incomplete"))

    def _exchange(self, token: Token | None) -> Token:
        raise NotImplementedError

    def _literal_secrets(self) -> Iterable[str]:
        """Yield the names of the arguments whose secret would be pickled."""
        if self._endpoint.holds_secret:
            yield "a proxy's password"

    def _talk(
        self, message: Message, deadline: float, read: Callable[[EndpointAnswer], Token]
    ) -> Token:
        """Post the request and read the token from the answer.

        If the connection was closed after sending, the request is sent once more, at once and
        with the same refresh token: a server with a grace window still accepts it, but only for
        a few seconds.
        """
        outcome = self._endpoint.post(message.body, message.headers, deadline)
        verdict = self._verdict(outcome)
        if verdict == "ambiguous" and self._ambiguous_retry:
            logger.warning("%s closed the connection: sending the request again", self._endpoint)
            outcome = self._endpoint.post(message.body, message.headers, deadline)
            verdict = self._verdict(outcome)
        reason = ""
        if verdict == "granted" and isinstance(outcome, EndpointAnswer):
            try:
                return read(outcome)
            except (ValueError, TypeError) as error:
                verdict = outcomes.without_token(outcome)
                reason = f", but {error}"
        raise outcomes.error_for(
            outcome, verdict, self._endpoint, reason=reason, hide=message.secrets
        )

    def _verdict(self, outcome: Outcome) -> outcomes.Verdict:
        if isinstance(outcome, NoAnswer):
            return outcomes.of_no_answer(outcome)
        by_rule = self._rule(outcome)
        if self._classify is None:
            return by_rule
        try:
            said = self._classify(outcome)
            if said is None:
                return by_rule
            if said in outcomes.VERDICTS:
                return said
            problem = (
                f"classify returned a {type(said).__name__} other than {outcomes.VERDICTS} and None"
            )
            cause = None
        except Exception as error:  # noqa: BLE001 (a callable supplied by the user)
            problem, cause = f"classify raised {account_of(error)}", strip(error)
        if by_rule == "granted":
            # The old token is already spent; a mistake in the hook must not lose the new one.
            logger.error("%s; the default rule was applied", problem)
            return by_rule
        raise RefreshFailed(problem, status_code=outcome.status) from cause

    def _deadline(self) -> float:
        return time.monotonic() + self.timeout


def contained(step: Callable[[], T]) -> T | SilentRefreshError:
    """Run ``step`` and return its result, or the error it raised without any frames.

    An exception of another package is replaced by a ``RefreshFailed``, because it may contain a
    secret: a ``UnicodeEncodeError``, for example, holds the text that could not be encoded.
    """
    failure: SilentRefreshError
    try:
        return step()
    except SilentRefreshError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 (a bad value from the user, or a bug in this package)
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        failure = RefreshFailed(
            f"the exchange could not be made: {type(error).__name__} in "
            f"{frame.f_code.co_filename}:{line}. Check what the grant's callables return"
        )
        del frame
    strip(failure)
    failure.__context__ = None
    return failure


def literal(value: Any) -> Any:
    """Wrap a secret so that no traceback shows it; return ``None`` and a callable as is.

    Called first in a constructor. A value of a wrong type counts as an empty secret.
    """
    if value is None or callable(value) or isinstance(value, Secret):
        return value
    return Secret(value if isinstance(value, str) else "")


def refresh_token_of(token: Token | None) -> str:
    """Return the refresh token in clear text; raises ``SessionExpired`` if there is none."""
    if token is None or token.refresh_token is None:
        raise SessionExpired("there is no refresh token to exchange: sign in (again)")
    return token.refresh_token.reveal()


def resolve(name: str, value: Any) -> Any:
    """Return the current value of a setting. A callable is called each time.

    Raises ``RefreshUnavailable`` if the callable raises ``requests.RequestException``, and
    ``RefreshFailed`` if it raises anything else or returns nothing.
    """
    if isinstance(value, Secret):
        return value.reveal()
    if not callable(value):
        return value
    return ask(
        value,
        name,
        failed=RefreshFailed,
        unavailable=RefreshUnavailable,
        passing=requests.RequestException,
    )


def secrets_among(sent: Any, *, secret: bool = False) -> Iterator[Secret]:
    """Yield the values that are sent under names that suggest a secret, and what is in them.

    ``sent`` is a mapping of fields or headers. Credentials are also yielded without their
    scheme, and those of ``Basic`` decoded.
    """
    if isinstance(sent, Mapping):
        for name, value in sent.items():
            yield from secrets_among(value, secret=secret or bool(_SECRET_NAME.match(name)))
    elif isinstance(sent, (list, tuple)):
        for value in sent:
            yield from secrets_among(value, secret=secret)
    elif secret and isinstance(sent, str):
        scheme, _, credentials = sent.partition(" ")
        yield from map(Secret, (sent, credentials))
        if scheme.lower() == "basic":
            with contextlib.suppress(ValueError):  # it is not base64 of text
                pair = base64.b64decode(credentials).decode()
                password = pair.partition(":")[2]
                yield from map(Secret, (pair, password, unquote_plus(password)))


def literal_secrets(what: str, values: Mapping[str, Any]) -> Iterable[str]:
    """Yield the names of those ``values`` that are literals and whose name suggests a secret."""
    for name, value in values.items():
        if not callable(value) and _SECRET_NAME.match(name):
            yield f"{what}[{name!r}]"
