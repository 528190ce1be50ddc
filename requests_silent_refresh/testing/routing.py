"""How each request is answered: by gates, endpoints, a test's handlers, and faults."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .answers import NOT_FOUND, Answer, Request
from .endpoints import Endpoints
from .events import EventLog
from .faults import Fault, Faults
from .gates import Gate, TokenGate
from .ledger import AccessToken
from .sign_in_endpoints import PATHS, SignInEndpoints
from .tokens import Settings, TokenFamilies

Handler = Callable[[Request, Answer], "Answer | None"]


class Router:
    """Answers requests, each in the thread of its connection.

    The handlers, forbidden paths and gates are replaced by assignment, so a thread
    that reads them sees the old or the new value. ``stopping`` ends all waits; a
    request that was waiting is dropped unprocessed, as in a crash.
    """

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        families: TokenFamilies,
        endpoints: Endpoints,
        sign_in: SignInEndpoints,
    ) -> None:
        self.stopping = threading.Event()
        self.faults = Faults()
        self.gates: tuple[Gate, ...] = ()
        self.token_gates: tuple[TokenGate, ...] = ()
        self.handlers: dict[str, Handler] = {}
        self.forbidden: frozenset[str] = frozenset()
        self._settings = settings
        self._log = log
        self._families = families
        self._endpoints = endpoints
        self._sign_in = sign_in

    def close_down(self) -> None:
        """End all waits, because the server is stopping."""
        self.stopping.set()
        for gate in self.gates:
            gate.release()
        for token_gate in self.token_gates:
            token_gate.release()
        self.gates = self.token_gates = ()

    def answer(self, request: Request) -> Answer:
        """Return the answer to send; never raises."""
        try:
            target = request.path.strip("/").partition("/")[0]
            if target in ("token", "json", "revoke"):
                return self._at_endpoint(target, request)
            if target.startswith("resource"):
                return self._at_resource(request)
            if target in PATHS or "/.well-known/" in request.path:
                return self._handled(request, self._sign_in.answer(request))
            if target.startswith("open"):
                return self._in_the_open(request)
        except Exception as error:  # noqa: BLE001 (a test's handler: the test must fail, not hang)
            self._log.append("error", path=request.path, reason=f"{type(error).__name__}: {error}")
            return Answer.json(500, {"error": "the handler of this path raised: see server.log"})
        return NOT_FOUND

    def _at_endpoint(self, target: str, request: Request) -> Answer:
        exchange = target != "revoke"
        if exchange:
            self._hold(request, processed=False)
            self.stopping.wait(self._settings.latency)
        fault = self.faults.take(target, request.path)
        if self.stopping.is_set():
            fault = Fault(target, drop="before")
        name = None if fault is None else fault.name
        real = None
        if fault is None or fault.lets_process:
            endpoint = getattr(self._endpoints, target)
            real = self._handled(request, endpoint(request, name))
        answer = fault.spoil(real) if fault is not None else real
        if real is None and exchange:
            described = self._endpoints.describe(request, name)
            self._families.note("faulted", *described, status=_status(answer))
        if exchange:
            self._hold(request, processed=True)
        return answer or Answer(drop=True)

    def _hold(self, request: Request, processed: bool) -> None:
        for gate in self.token_gates:
            if gate.processed == processed:
                gate.pass_through(request.path)

    def _at_resource(self, request: Request) -> Answer:
        for gate in self.gates:
            gate.pass_through()
        access, reason = self._families.check(request.bearer)
        if reason is None and request.path in self.forbidden:
            reason = "forbidden"
        real = _echo(request, access) if reason is None else _challenge(reason)
        answer = self._handled(request, real)
        fault = self.faults.take("resource", request.path)
        if fault is not None:
            answer = fault.spoil(answer)
        self._families.note_resource(
            access,
            status=_status(answer),
            began=request.arrived_at,
            method=request.method,
            path=request.path,
            reason=reason,
            fault=None if fault is None else fault.name,
        )
        return answer

    def _in_the_open(self, request: Request) -> Answer:
        answer = self._handled(request, _echo(request, None))
        self._log.append(
            "open",
            began=request.arrived_at,
            method=request.method,
            path=request.path,
            status=_status(answer),
            reason=None if "Authorization" not in request.headers else "authorization sent",
        )
        return answer

    def _handled(self, request: Request, answer: Answer) -> Answer:
        handler = self.handlers.get(request.path)
        return (handler(request, answer) if handler is not None else None) or answer


def _status(answer: Answer | None) -> int | None:
    """Return the status that the client sees; ``None`` if it sees none."""
    if answer is None or answer.drop or answer.raw is not None:
        return None
    return answer.status


def _challenge(reason: str) -> Answer:
    """Answer 401 as in RFC 6750 section 3, without an error code if no token was sent."""
    challenge = 'Bearer realm="resource"'
    if reason != "missing":
        challenge += ', error="invalid_token", error_description="The access token is not valid"'
    return Answer.json(401, {"message": "unauthorized"}, {"WWW-Authenticate": challenge})


def _echo(request: Request, access: AccessToken | None) -> Answer:
    """Answer 200 with what arrived; header names are in lower case, Authorization is omitted."""
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        name = name.lower()  # noqa: PLW2901
        if name != "authorization":
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Answer.json(
        200,
        {
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "body_length": request.body_length,
            "body_sha256": request.body_sha256,
            "headers": headers,
            "access_token_serial": None if access is None else access.serial,
        },
    )
