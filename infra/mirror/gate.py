"""What stands before each upstream: its rate limit, its counters, a fault it is told to show."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.mirror.faults import AnyFault

WINDOW_SECONDS: Final = 1.0
HOUR_SECONDS: Final = 3600
REQUESTS_PER_HOUR: Final = 55_000
ARRIVALS_MAX: Final = 10_000  # The last ones, of which it is known when they came.


class RateLimit:
    """Ensembl's headers over its hour, and a hard limit in any second.

    The true service lets bursts pass within its hour. Refusing them shows at once that a client
    does not keep its own limit.
    """

    def __init__(self, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._admitted: deque[float] = deque(maxlen=per_second)
        self._hour_began = clock()
        self._in_this_hour = 0

    def admit(self) -> float:
        """Seconds to wait; 0 means that the request is admitted and counted."""
        now = self._clock()
        if now - self._hour_began >= HOUR_SECONDS:
            self._hour_began, self._in_this_hour = now, 0
        if len(self._admitted) == self._per_second:
            wait = self._admitted[0] + WINDOW_SECONDS - now
            if wait > 0:
                # Rounded up, so that who waits exactly as long as told is admitted.
                return math.ceil(wait * 1000) / 1000
        self._admitted.append(now)
        self._in_this_hour += 1
        return 0.0

    def headers(self) -> dict[str, str]:
        reset_seconds = HOUR_SECONDS - (self._clock() - self._hour_began)
        return {
            "X-RateLimit-Limit": str(REQUESTS_PER_HOUR),
            "X-RateLimit-Period": str(HOUR_SECONDS),
            "X-RateLimit-Remaining": str(max(0, REQUESTS_PER_HOUR - self._in_this_hour)),
            "X-RateLimit-Reset": str(max(0, int(reset_seconds))),
        }


class Counters:
    """What arrived and how it was answered, since the start."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._arrivals: deque[float] = deque()
        self._statuses: dict[int, int] = {}
        self._faults: dict[str, int] = {}
        self._requests = 0
        self._per_second_max = 0
        # When, on the wall clock, and for which path: for who asks whether somebody came too late.
        self.log: deque[tuple[float, str]] = deque(maxlen=ARRIVALS_MAX)

    def arrived(self, path: str) -> None:
        now = self._clock()
        self.log.append((time.time(), path))
        self._arrivals.append(now)
        while now - self._arrivals[0] >= WINDOW_SECONDS:
            self._arrivals.popleft()
        self._requests += 1
        self._per_second_max = max(self._per_second_max, len(self._arrivals))

    def answered(self, status: int) -> None:
        self._statuses[status] = self._statuses.get(status, 0) + 1

    def struck(self, kind: str) -> None:
        self._faults[kind] = self._faults.get(kind, 0) + 1

    def as_json(self) -> dict[str, object]:
        return {
            "requests": self._requests,
            "not_modified": self._statuses.get(304, 0),
            "too_many_requests": self._statuses.get(429, 0),
            "requests_per_second_max": self._per_second_max,
            "statuses": {str(status): count for status, count in sorted(self._statuses.items())},
            "faults": dict(self._faults),
        }


class Gate:
    """Wraps an upstream's routes, and shows a fault to the requests that it is for."""

    def __init__(
        self,
        app: ASGIApp,
        limit: RateLimit | None = None,
        refusal: Callable[[float, dict[str, str]], Response] | None = None,
    ) -> None:
        self.counters = Counters()
        self._app = app
        self._limit = limit
        self._refusal = refusal
        self._fault: AnyFault | None = None
        self._strikes_left: int | None = None  # None: no end.

    def tell(self, fault: AnyFault | None) -> None:
        """From now on show this fault, instead of the one before; None: answer as usual."""
        self._fault = fault
        self._strikes_left = fault.count if fault is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        self.counters.arrived(path)
        headers = dict[str, str]()

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.counters.answered(message["status"])
                MutableHeaders(scope=message).update(headers)
            await send(message)

        if (fault := self._strike(path)) is not None:
            await fault.answer(self._app, scope, receive, send_counted)
            return
        app = self._app
        if self._limit is not None and self._refusal is not None:
            wait_seconds = self._limit.admit()
            headers = self._limit.headers()
            if wait_seconds:
                app = self._refusal(wait_seconds, headers)
        await app(scope, receive, send_counted)

    def _strike(self, path: str) -> AnyFault | None:
        """The fault, if it is for this request; counted."""
        fault = self._fault
        if fault is None or self._strikes_left == 0 or not path.startswith(fault.path):
            return None
        if self._strikes_left is not None:
            self._strikes_left -= 1
        self.counters.struck(fault.kind)
        return fault
