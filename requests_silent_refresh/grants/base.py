"""``Grant``: what all grants have in common."""

from __future__ import annotations

import logging
import math
import re
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import requests

from ..errors import RefreshFailed, RefreshUnavailable, SilentRefreshError
from ..redaction import Secret, strip
from ..secret_sources import ask
from ..token import Token
from . import outcomes
from .answer import EndpointAnswer, NoAnswer, Outcome
from .token_endpoint import TokenEndpoint

logger = logging.getLogger("requests_silent_refresh")

T = TypeVar("T")

# Fields and headers whose literal value must not get into a pickle; "client_assertion_type" may.
_SECRET_NAME = re.compile(
    r"(?i)(?!.*_type\Z).*(secret|token|key|password|passphrase|assertion|authorization|cookie)"
)


class Grant:
    """Exchanges a token for a new one at one endpoint. Immutable and thread-safe.

    A call blocks for ``timeout`` seconds in all at the most, whatever the network
    does; only a callable of the user's (a secret's source, ``classify``) may hold
    it longer. Nothing is kept between calls: no connection, no cookie, no answer.
    What it raises holds no secret, neither in itself, nor in its cause, nor in a
    variable of the frames it went through.
    """

    #: Whether an exchange spends the refresh token.
    rotates = True
    #: Whether there has to be a token to start from.
    needs_sign_in = True

    def __init__(
        self,
        endpoint: TokenEndpoint,
        rule: Callable[[EndpointAnswer], outcomes.Verdict],
        *,
        timeout: float,
        classify: outcomes.Classify | None,
        ambiguous_retry: bool,
    ) -> None:
        if not (isinstance(timeout, (int, float)) and 0 < timeout < math.inf):
            raise ValueError("timeout is a number of seconds above zero: nobody waits for ever")
        #: Seconds that one exchange may take in all.
        self.timeout = timeout
        self._endpoint = endpoint
        self._rule = rule
        self._classify = classify
        self._ambiguous_retry = ambiguous_retry

    def __call__(self, token: Token | None) -> Token:
        """Exchange ``token`` and return the new one.

        Raises ``SessionExpired`` where the server refuses, ``RefreshFailed``
        where no retry will help, and ``RefreshUnavailable`` where one may.
        """
        result = contained(lambda: self._exchange(token))
        if isinstance(result, SilentRefreshError):
            raise result  # here, where no frame has seen a secret
        return result

    def revoke(self, token: Token) -> bool:
        """Have the server forget ``token``; ``False`` where it has no way to be told."""
        return False

    def __getstate__(self) -> dict[str, Any]:
        for name in self._literal_secrets():
            raise TypeError(
                f"a {type(self).__name__} with {name} written into it is not pickled, because the "
                "secret would be in the pickle: give a callable that returns it, such as "
                "sources.FromEnvironment('NAME') or sources.FromFile('/path')"
            )
        return dict(self.__dict__)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._endpoint)!r})"

    def _exchange(self, token: Token | None) -> Token:
        raise NotImplementedError

    def _literal_secrets(self) -> Iterable[str]:
        """Names of the arguments that hold a secret and would be pickled."""
        if self._endpoint.holds_secret:
            yield "a proxy's password"

    def _talk(
        self,
        body: bytes,
        headers: Mapping[str, str],
        deadline: float,
        read: Callable[[EndpointAnswer], Token],
    ) -> Token:
        """Post, ask once more where the connection was closed after sending, and read the token.

        The second try comes at once and with the same refresh token: a server
        with a grace window answers it from there, but only for some seconds.
        """
        outcome = self._endpoint.post(body, headers, deadline)
        verdict = self._verdict(outcome)
        if verdict == "ambiguous" and self._ambiguous_retry:
            logger.warning("%s closed the connection: asking it once more", self._endpoint)
            outcome = self._endpoint.post(body, headers, deadline)
            verdict = self._verdict(outcome)
        reason = ""
        if verdict == "granted" and isinstance(outcome, EndpointAnswer):
            try:
                return read(outcome)
            except (ValueError, TypeError) as error:
                verdict, reason = "unavailable", f", but {error}"
        raise outcomes.error_for(outcome, verdict, self._endpoint, reason=reason)

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
            problem = f"classify returned {said!r}, not one of {outcomes.VERDICTS} or None"
            cause = None
        except Exception as error:  # noqa: BLE001 (a callable of the user's)
            problem, cause = f"classify raised {type(error).__name__}", strip(error)
        if by_rule == "granted":
            # The old token is spent by now, and a mistake in a hook must not lose the new one.
            logger.error("%s; the default rule was applied", problem)
            return by_rule
        raise RefreshFailed(problem, status_code=outcome.status) from cause

    def _deadline(self) -> float:
        return time.monotonic() + self.timeout


def contained(step: Callable[[], T]) -> T | SilentRefreshError:
    """Run ``step``; return what it returned, or what it raised with all its frames cut.

    What is not of this package is replaced: the ``UnicodeEncodeError`` of a
    secret that is no text, for one, carries the secret.
    """
    failure: SilentRefreshError
    try:
        return step()
    except SilentRefreshError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 (whatever else a user's value or a mistake here brings)
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
    """Wrap a secret given as a ``str``, so that nothing prints it; leave a callable alone."""
    return Secret(value) if isinstance(value, str) else value


def resolve(name: str, value: Any) -> Any:
    """Return a setting's value now; a callable is asked anew each time.

    Raises ``RefreshUnavailable`` where the callable has trouble with the network,
    and ``RefreshFailed`` where it fails otherwise or returns nothing.
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


def literal_secrets(what: str, values: Mapping[str, Any]) -> Iterable[str]:
    """Names of the ``values`` that look like secrets by their names and are written out."""
    for name, value in values.items():
        if not callable(value) and _SECRET_NAME.match(name):
            yield f"{what}[{name!r}]"
