"""``Grant``: the base class of all grants, and the options that they share."""

from __future__ import annotations

import logging
import ssl
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypedDict, TypeVar

from requests.adapters import BaseAdapter

from .. import arguments
from ..errors import RefreshFailed, SilentRefreshError
from ..reading import Reader
from ..redaction import MaskedDict, hidden_mapping, strip
from ..system.foreign import account_of
from ..token import Token
from . import outcomes
from .answer import EndpointAnswer, NoAnswer, Outcome
from .dialect import Dialect, Verdict
from .protocol import EXCHANGE_TIMEOUT
from .sent import Message, Value, literal_secrets
from .token_endpoint import TokenEndpoint

logger = logging.getLogger("requests_silent_refresh")

T = TypeVar("T")

# Seconds before the last try of an exchange whose fate is in doubt.
PAUSE = 1.0


class GrantOptions(TypedDict, total=False):
    """The options of every grant; see :class:`Grant`."""

    headers: Mapping[str, Value] | None
    access_token_path: str | None
    refresh_token_path: str | None
    expires_path: str | None
    expires_unit: Literal["s", "ms"]
    dialect: Mapping[str, str] | None
    classify: outcomes.Classify | None
    timeout: float
    ambiguous_retry: bool
    refuses_early: bool
    verify: bool | str | ssl.SSLContext | None
    cert: str | tuple[str, str] | None
    proxies: Mapping[str, str] | None
    transport: BaseAdapter | None
    allow_insecure_http: bool
    clock: Callable[[], float]


class Grant:
    """Exchanges a token for a new one at one endpoint. Immutable and thread-safe.

    >>> grant = RefreshTokenGrant(
    ...     "https://auth.example.com/token",
    ...     "app",
    ...     headers={"Origin": "https://app.example.com"},
    ...     access_token_path="id_token",
    ...     dialect={"session_gone": "refused"},
    ... )
    >>> grant.timeout
    30.0

    A call blocks for at most ``timeout`` seconds in total, whatever the network does. Only a
    callable supplied by the user (the source of a secret, ``classify``) can block it longer.
    No connection, cookie or answer is kept between calls. The exceptions that a call raises
    hold no secret, and neither do their causes and the variables of their frames.

    All grants take these options:

    ``headers``
        More headers of the request, for example ``Origin`` or an API key. They replace those
        of the grant. A callable is called for the value at each exchange, and
        ``{refresh_token}`` and ``{access_token}`` stand for the tokens to exchange.
    ``access_token_path``, ``refresh_token_path``, ``expires_path``
        Where they are in the answer: names joined by dots, or ``header:NAME`` or
        ``cookie:NAME``. ``None`` looks for the usual names in any spelling, at the top and in
        nested objects; so does a path at which there is nothing. If the answer has no refresh
        token, the old one stays valid.
    ``expires_unit``
        ``"s"`` or ``"ms"``, the unit of a lifetime. Points in time are told from lifetimes by
        their size.
    ``dialect``
        What the server's own error codes, or words of its descriptions, mean: ``"refused"``
        (the session has ended), ``"unavailable"`` (trying again may help) or ``"wrong"``.
    ``classify``
        ``classify(answer)`` returns the meaning of an :class:`~.answer.EndpointAnswer`:
        ``"granted"``, ``"refused"``, ``"wrong"``, ``"unavailable"``, or ``None`` for the
        dialect and the rules of :mod:`.outcomes`. It is called for every answer, in the thread
        of the exchange, and must return quickly. A wrong ``"refused"`` signs people out.
    ``timeout``
        Seconds that an exchange may take in total, including further tries.
    ``ambiguous_retry``
        Whether to send the same refresh token again if the connection was closed after
        sending. Use ``False`` if the server treats any second use as theft.
    ``refuses_early``
        Whether the server refuses a refresh while the access token is valid, but for its last
        seconds. The manager then makes no refreshes ahead of time.
    ``verify``, ``cert``, ``proxies``
        As in ``requests``, for this endpoint; ``verify`` may also be an ``ssl.SSLContext``.
        ``None`` uses the environment. A mapping of proxies replaces the environment's; ``{}``
        means no proxy.
    ``transport``
        Another transport adapter to send through. It is not closed, and what it logs or stores
        is its own affair; a request that it is still sending at the deadline is left behind.
    ``allow_insecure_http``
        Sends tokens to a plain http endpoint that is not on this machine, where others can
        read them: for an endpoint inside a cluster.
    ``clock``
        Returns Unix time in seconds.

    The constructors raise ``TypeError`` or ``ValueError`` for invalid arguments, naming the
    argument, and ``InsecureTransport`` for a URL that is neither https nor loopback.
    """

    #: Whether an exchange spends the refresh token.
    rotates = True
    #: Whether an exchange needs an existing token.
    needs_sign_in = True
    #: Whether that token must have a refresh token.
    needs_refresh_token = True

    def __init__(
        self,
        url: str,
        url_name: str,
        rule: Callable[[EndpointAnswer], Verdict],
        *,
        headers: Mapping[str, Value] | None = None,
        access_token_path: str | None = None,
        refresh_token_path: str | None = None,
        expires_path: str | None = None,
        expires_unit: Literal["s", "ms"] = "s",
        dialect: Mapping[str, str] | None = None,
        classify: outcomes.Classify | None = None,
        timeout: float = EXCHANGE_TIMEOUT,
        ambiguous_retry: bool = True,
        refuses_early: bool = False,
        **network: Any,
    ) -> None:
        # First, before anything can raise, because a traceback may show these locals.
        headers, network = hidden_mapping(headers), MaskedDict(network)
        self._network = network
        self._endpoint = TokenEndpoint(url, name=url_name, **network)
        arguments.seconds(timeout=timeout)
        arguments.functions(**arguments.given(classify=classify))
        arguments.flags(ambiguous_retry=ambiguous_retry, refuses_early=refuses_early)
        #: Seconds that one exchange may take in total.
        self.timeout = timeout
        #: Whether the server refuses a refresh before the last seconds of a token.
        self.refuses_early = refuses_early
        self._headers = arguments.mapping("headers", headers)
        for name, value in self._headers.items():
            arguments.header_tokens(**{f"headers: the name {name!r}": name})
            arguments.header_values(**{f"headers[{name!r}]": value})
        self._reader = Reader(access_token_path, refresh_token_path, expires_path, expires_unit)
        self._rule = rule
        self._dialect = Dialect(arguments.mapping("dialect", dialect))
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

    def read_token(self, payload: Any) -> Token:
        """Read a token that was granted or saved elsewhere, with the paths of this grant.

        As :meth:`Token.from_response` without ``received_at``. Raises ``ValueError``.
        """
        return Token.from_response(payload, reader=self._reader)

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
        if isinstance(self._network.get("verify"), ssl.SSLContext):
            raise TypeError(
                f"cannot pickle a {type(self).__name__} with an SSLContext: pass verify= the path "
                "of a file of CA certificates"
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
        yield from literal_secrets("headers", self._headers)

    def _talk(self, message: Message, deadline: float, previous: Token | None) -> Token:
        """Send the request and read the token from the answer.

        If the connection was closed after sending, the request is sent once more, at once and
        with the same refresh token: a server with a grace window still accepts it, but only for
        a few seconds. If that is refused, or a server says that it is still working on another
        request with this refresh token, the first request may yet be granted; one last try
        after a pause decides. Without time for it, nothing is decided.
        """
        outcome = self._send(message, deadline)
        verdict = self._verdict(outcome)
        in_doubt = outcomes.is_under_way(outcome)
        if verdict == "ambiguous" and self._ambiguous_retry:
            logger.warning("%s closed the connection: sending the request again", self._endpoint)
            outcome = self._send(message, deadline)
            verdict = self._verdict(outcome)
            in_doubt = verdict == "refused" or outcomes.is_under_way(outcome)
        if in_doubt and self._ambiguous_retry:
            if time.monotonic() + PAUSE < deadline:
                time.sleep(PAUSE)
                logger.warning("%s has not decided yet: sending a last request", self._endpoint)
                outcome = self._send(message, deadline)
                verdict = self._verdict(outcome)
            else:
                verdict = "unavailable"
        reason = ""
        if verdict == "granted" and isinstance(outcome, EndpointAnswer):
            try:
                return self._read(outcome, previous)
            except (ValueError, TypeError) as error:
                verdict = self._dialect.verdict(outcome) or outcomes.without_token(outcome)
                reason = f", but {error}"
        raise outcomes.error_for(
            outcome, verdict, self._endpoint, reason=reason, hide=message.secrets
        )

    def _send(self, message: Message, deadline: float) -> Outcome:
        return self._endpoint.post(
            message.body,
            message.headers,
            deadline,
            method=message.method,
            query=message.query,
        )

    def _read(self, answer: EndpointAnswer, previous: Token | None) -> Token:
        return Token.from_response(
            answer.payload or {},
            answer.received_at,
            previous,
            reader=self._reader,
            server_time=answer.server_time,
            attached={"header": answer.headers, "cookie": answer.cookies},
        )

    def _verdict(self, outcome: Outcome) -> Verdict:
        if isinstance(outcome, NoAnswer):
            return outcomes.of_no_answer(outcome)
        by_rule = self._rule(outcome)
        if by_rule != "granted":
            by_rule = self._dialect.verdict(outcome) or by_rule
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
