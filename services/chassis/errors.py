"""Two kinds of errors, by what to do next.

AnnobusError
├── PermanentError          trying again does not help: dead letter, 4xx
│   ├── MalformedMessage    headers or body cannot be read
│   ├── UnknownMessage      a command, or a major version, that contracts/ does not know
│   ├── MessageTooLarge     above what the broker takes
│   └── RequestError        a client asked for what cannot be (chassis/http.py turns it to 4xx)
└── TransientError          trying again later may help: retry, 503
    └── TopicShut           a topic that takes no message: it is missing, or its broker away
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

Problem = dict[str, str | int]

DETAIL_CHARACTERS_MAX = 2_000  # It travels in headers and rows.
SHOWN_CHARACTERS_MAX = 100  # Of a refused value, in an error.


def problem_urn(kind: str) -> str:
    return f"urn:annobus:problem:{kind}"


class AnnobusError(Exception):
    """Something annobus knows about; the docstring of a subclass is its title."""

    kind: ClassVar[str] = "error"

    def problem(self) -> Problem:
        """An RFC 9457 document: the same one for HTTP, events and rows."""
        return {"type": self.urn(), "title": self.title(), "detail": readable(str(self))}

    @classmethod
    def urn(cls) -> str:
        """The `type` of its problem."""
        return problem_urn(cls.kind)

    @classmethod
    def title(cls) -> str:
        return (cls.__doc__ or "").split("\n")[0].rstrip(".")


class PermanentError(AnnobusError):
    """Trying again does not help."""

    kind = "permanent"


class RequestError(PermanentError):
    """A request that cannot be answered.

    Subclasses set the status and the title (their docstring); the detail says what would do.
    """

    kind: ClassVar[str] = "bad-request"
    status: ClassVar[int] = 400

    def __init__(self, detail: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(detail)
        self.errors = list(errors)


class TransientError(AnnobusError):
    """Trying again later may help."""

    kind = "transient"


class MalformedMessage(PermanentError):
    """A message that cannot be read."""

    kind = "malformed-message"


class UnknownMessage(PermanentError):
    """A message of a type that nobody here knows."""

    kind = "unknown-message"


class MessageTooLarge(PermanentError):
    """A message larger than the broker takes."""

    kind = "message-too-large"


class TopicShut(TransientError):
    """A topic that takes no message."""

    kind = "topic-shut"


def field_error(pointer: str, value: object, accepted: str) -> dict[str, Any]:
    """One entry of a problem's `errors`: the field, the value and what would be accepted."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    shown = text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "…"
    return {"pointer": pointer, "value": shown, "accepted": accepted}


def readable(said: str) -> str:
    """What rows and headers can keep of a text: not NUL, and no half of a character."""
    return said.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def problem_of(error: Exception) -> Problem:
    """The problem document of any error; one that is not ours shows its type and text."""
    if isinstance(error, AnnobusError):
        problem = error.problem()
        return problem | {"detail": str(problem["detail"])[:DETAIL_CHARACTERS_MAX]}
    said = readable(f"{type(error).__name__}: {error}")
    return {
        "type": problem_urn("unexpected"),
        "title": "An unexpected error",
        "detail": said[:DETAIL_CHARACTERS_MAX],
    }
