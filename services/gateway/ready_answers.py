"""Whole answers that were sent before and still hold: sent again before a route is looked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cachebox import LRUCache
from fastapi import Request
from fastapi.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway import jsonapi

BYTES_MAX = 32 * 1024 * 1024
ANSWER_BYTES = 1_000  # What an answer costs beside its address and its body.

Address = tuple[bytes, bytes]  # The path and the query, as they were sent.


@dataclass(frozen=True)
class _Answer:
    route: Any  # By which it is counted.
    etag: str
    whole: tuple[Message, Message]
    unchanged: tuple[Message, Message]
    holds: Callable[[], bool]


def _size(address: Address, answer: _Answer) -> int:
    return len(address[0]) + len(address[1]) + len(answer.whole[1]["body"]) + ANSWER_BYTES


class ReadyAnswers:
    """An answer is kept with what tells whether it holds, and is asked each time: what is heard
    while it is kept counts as it does for what the answer was made of."""

    def __init__(self) -> None:
        self._answers: LRUCache[Address, _Answer] = LRUCache(BYTES_MAX, getsizeof=_size)

    def keep(self, request: Request, answer: Response, holds: Callable[[], bool]) -> None:
        """`holds` counts as one reading of all that the answer is made of."""
        etag = answer.headers["etag"]
        kept = _Answer(
            route=request.scope["route"],
            etag=etag,
            whole=_messages(answer),
            unchanged=_messages(jsonapi.unchanged(answer)),
            holds=holds,
        )
        address = _address(request.scope)
        if _size(address, kept) <= BYTES_MAX:
            self._answers[address] = kept

    def find(self, scope: Scope) -> tuple[Message, Message] | None:
        """What to send, if it is known."""
        address = _address(scope)
        answer = self._answers.get(address)
        if answer is None:
            return None
        if not answer.holds():
            self._answers.pop(address, None)
            return None
        scope["route"] = answer.route
        condition = next((value for name, value in scope["headers"] if name == _CONDITION), None)
        if condition is not None and jsonapi.is_known(condition.decode("latin-1"), answer.etag):
            return answer.unchanged
        return answer.whole


_CONDITION = b"if-none-match"


def _address(scope: Scope) -> Address:
    return scope["raw_path"], scope["query_string"]


def _messages(answer: Response) -> tuple[Message, Message]:
    start = {
        "type": "http.response.start",
        "status": answer.status_code,
        "headers": answer.raw_headers,
    }
    return start, {"type": "http.response.body", "body": answer.body}


class ReadyFirst:
    """Of many routes the right one is found late, and each reads its parameters anew."""

    def __init__(self, app: ASGIApp, ready: ReadyAnswers) -> None:
        self._app = app
        self._ready = ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        messages = None
        if scope["type"] == "http" and scope["method"] == "GET":
            messages = self._ready.find(scope)
        if messages is None:
            await self._app(scope, receive, send)
            return
        for message in messages:
            await send(message)
