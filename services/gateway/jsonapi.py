"""JSON:API 1.1: which query parameters a route takes, and the documents it answers with."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from contracts.views import SummaryKind
from services.chassis.errors import SHOWN_CHARACTERS_MAX, field_error
from services.gateway import comparisons, shapes
from services.gateway.comparisons import EQUAL, OPERATORS, Condition
from services.gateway.errors import ParameterInvalid, ParameterUnknown
from services.gateway.shapes import Schema

MEDIA_TYPE = "application/vnd.api+json"
PAGE_SIZE = 20
PAGE_SIZE_MAX = 200
OFFSET_MAX = 100_000  # page[number] × page[size]; the cursor of links.next goes on beyond.
FILTER_VALUES_MAX = 200
CURSOR_CHARACTERS_MAX = 500
UNKNOWN_PARAMETERS_MAX = 10  # Named in an answer.
_COMPARISON = re.compile(r"filter\[([^][]+)\](?:\[([a-z]+)\])?")

# One of the values of a list, which has commas between them; and such a list as it is written.
PART: Schema = {"type": "string", "pattern": r"^[^,\x00]*[^,\s\x00][^,\x00]*$"}
WRITTEN: Schema = {"type": "string", "pattern": r"^[^\x00]*[^,\s\x00][^\x00]*$"}
_KINDS: Mapping[SummaryKind, Schema] = {
    "number": shapes.NUMBER,
    "integer": shapes.whole(-comparisons.INTEGER_MAX, comparisons.INTEGER_MAX),
    "boolean": shapes.BOOLEAN,
    "date": {"type": "string", "format": "date"},
    "text": PART,
    "texts": PART,
}

Resource = Mapping[str, Any]


def _several(value: Schema) -> Schema:
    return shapes.listed(value, minItems=1, maxItems=FILTER_VALUES_MAX)


# --------------------------------------------------------------------------- what is asked


@dataclass(frozen=True)
class Query:
    """The parameters of one request, checked."""

    given: Mapping[str, str]
    number: int = 1
    size: int = PAGE_SIZE
    after: tuple[Any, ...] | None = None
    total: bool = False
    sort: str = ""
    filters: Mapping[str, list[str]] = field(default_factory=dict)
    conditions: Sequence[Condition] = ()
    fields: list[str] | None = None
    include: Sequence[str] = ()

    def relates(self, name: str) -> bool:
        """Whether its resources tell of a relationship: if that is included, unless fields that
        are chosen leave it out."""
        return name in (self.include if self.fields is None else self.fields)

    @property
    def offset(self) -> int:
        return 0 if self.after is not None else (self.number - 1) * self.size


@dataclass(frozen=True)
class Allowed:
    """The parameters a route takes; any other is refused by name, so that none is ignored."""

    paged: bool = False
    sized: bool = False  # page[size] alone: what is next, a cursor says.
    keyset: bool = False  # Also page[after] and page[total].
    others: tuple[str, ...] = ()  # Whose values the route reads itself.
    counted: bool = False  # Always, so that page[total] is not asked for.
    filters: tuple[str, ...] = ()
    # Fields that are compared, as filter[NAME] and filter[NAME][OPERATOR]; most of them sort, too.
    compared: Mapping[str, SummaryKind] = field(default_factory=dict)
    sorts: tuple[str, ...] = ()  # The first is the default.
    resource: str = ""
    fields: tuple[str, ...] = ()  # With relationships, which are fields as well.
    includes: tuple[str, ...] = ()  # Relationships whose resources may come along.
    # What the values of filters and of the others may be, where that is known; by the name of the
    # filter, of which there may be several, or of the parameter.
    values: Mapping[str, Schema] = field(default_factory=dict)
    required: tuple[str, ...] = ()

    @cached_property
    def names(self) -> list[str]:
        return [
            *(("page[number]",) if self.paged else ()),
            *(("page[size]",) if self.paged or self.sized else ()),
            *(("page[after]",) if self.keyset else ()),
            *(("page[total]",) if self.keyset and not self.counted else ()),
            *(f"filter[{name}]" for name in (*self.filters, *self.compared)),
            *(("sort",) if self.sorts else ()),
            *((f"fields[{self.resource}]",) if self.fields else ()),
            *(("include",) if self.includes else ()),
            *self.others,
        ]

    def openapi(self) -> dict[str, Any]:
        """The same parameters for openapi.json; lists of values are separated by commas."""
        return {
            "parameters": [
                {
                    "name": name,
                    "in": "query",
                    "required": name in self.required,
                    "schema": schema,
                    **({"style": "form", "explode": False} if "items" in schema else {}),
                }
                for name, schema in self._schemas().items()
            ]
        }

    def _schemas(self) -> dict[str, Schema]:
        known: dict[str, Schema] = {
            "page[number]": shapes.whole(1, OFFSET_MAX),
            "page[size]": shapes.whole(1, PAGE_SIZE_MAX) | {"default": PAGE_SIZE},
            "page[after]": {
                "type": "string",
                "minLength": 1,
                "maxLength": CURSOR_CHARACTERS_MAX,
                "description": "what links.next has",
            },
            "page[total]": shapes.BOOLEAN | {"default": False},
            "sort": shapes.enum(self._sorts) | {"default": self._sorts[0]} if self.sorts else {},
            f"fields[{self.resource}]": shapes.listed(shapes.enum(self.fields)),
            "include": shapes.listed(shapes.enum(self.includes)),
            **{f"filter[{name}]": _several(self.values.get(name, PART)) for name in self.filters},
            **{f"filter[{name}]": _several(_KINDS[kind]) for name, kind in self.compared.items()},
            **self.values,
        }
        found = {name: known[name] for name in self.names}
        for name, kind in self.compared.items():
            for operator in OPERATORS[kind]:
                several = operator not in comparisons.SINGLE
                value = shapes.BOOLEAN if operator == comparisons.KNOWN else _KINDS[kind]
                found[f"filter[{name}][{operator}]"] = _several(value) if several else value
        return found

    def parse(self, parameters: QueryParams) -> Query:
        """Raises ParameterUnknown and ParameterInvalid."""
        given = self._given(parameters)
        if not given:
            return Query(given, sort=self.sorts[0] if self.sorts else "")
        if "page[number]" in given and "page[after]" in given:
            raise invalid("page[after]", given["page[after]"], "it alone, or page[number] alone")
        size = _whole(given, "page[size]", PAGE_SIZE, PAGE_SIZE_MAX)
        sort = one_of(given, "sort", self._sorts) if self.sorts else ""
        return Query(
            given=given,
            number=_whole(given, "page[number]", 1, OFFSET_MAX // size),
            size=size,
            after=_cursor(given, sort, self.compared) if self.keyset else None,
            total=one_of(given, "page[total]", ("false", "true")) == "true",
            sort=sort,
            filters={name: _values(given, name) for name in self.filters if _has(given, name)},
            conditions=[
                _condition(given, parameter, *compared)
                for parameter in given
                if (compared := self._compared(parameter))
            ],
            fields=_some(given, f"fields[{self.resource}]", self.fields),
            include=_some(given, "include", self.includes) or (),
        )

    @cached_property
    def _sorts(self) -> Sequence[str]:
        fields = [name for name, kind in self.compared.items() if kind in comparisons.SORTED]
        return [*self.sorts, *(f"{sign}{name}" for name in fields for sign in ("", "-"))]

    def _compared(self, parameter: str) -> tuple[str, SummaryKind, str] | None:
        """The field, its kind and the operator."""
        found = _COMPARISON.fullmatch(parameter)
        if found is None or found[1] not in self.compared:
            return None
        return found[1], self.compared[found[1]], found[2] or EQUAL

    def _given(self, parameters: QueryParams) -> Mapping[str, str]:
        accepted = ", ".join(self.names) or "no parameters here"
        unknown = [
            (name, value)
            for name, value in parameters.multi_items()
            if name not in self.names and self._compared(name) is None
        ]
        if unknown:
            errors = [
                field_error(f"query {name}"[:SHOWN_CHARACTERS_MAX], value, accepted)
                for name, value in unknown[:UNKNOWN_PARAMETERS_MAX]
            ]
            named = ", ".join(error["pointer"].removeprefix("query ") for error in errors)
            more = len(unknown) - len(errors)
            others = f" and {more} more" if more else ""
            detail = f"{named}{others} is not known; accepted: {accepted}"
            raise ParameterUnknown(detail, errors)
        for name in parameters:
            if len(parameters.getlist(name)) > 1:
                raise invalid(name, parameters.getlist(name), "given once; values: a,b,c")
        return dict(parameters)


def _some(given: Mapping[str, str], name: str, accepted: Sequence[str]) -> list[str] | None:
    """Names out of those that there are, each once; None where the parameter is not given."""
    if name not in given:
        return None
    chosen = list(dict.fromkeys(part.strip() for part in given[name].split(",") if part.strip()))
    if not set(chosen) <= set(accepted):
        raise invalid(name, given[name], f"some of {', '.join(accepted)}")
    return chosen


def _condition(
    given: Mapping[str, str], parameter: str, name: str, kind: SummaryKind, operator: str
) -> Condition:
    if operator not in OPERATORS[kind]:
        accepted = ", ".join(f"filter[{name}][{one}]" for one in OPERATORS[kind])
        raise invalid(parameter, given[parameter], accepted)
    try:
        return comparisons.parse(name, kind, operator, _parts(given, parameter))
    except comparisons.Unfit as unfit:
        raise invalid(parameter, given[parameter], str(unfit)) from None


def _has(given: Mapping[str, str], name: str) -> bool:
    return f"filter[{name}]" in given


def _values(given: Mapping[str, str], name: str) -> list[str]:
    return _parts(given, f"filter[{name}]")


def _parts(given: Mapping[str, str], parameter: str) -> list[str]:
    values = [part.strip() for part in given[parameter].split(",") if part.strip()]
    if not 1 <= len(values) <= FILTER_VALUES_MAX:
        accepted = f"1 to {FILTER_VALUES_MAX} values, separated by commas"
        raise invalid(parameter, given[parameter], accepted)
    if "\x00" in given[parameter]:
        raise invalid(parameter, given[parameter], "text without the character NUL")
    return values


def _whole(given: Mapping[str, str], name: str, default: int, at_most: int) -> int:
    value = given.get(name, str(default))
    if value.isascii() and value.isdigit() and len(value) < 10 and 1 <= int(value) <= at_most:
        return int(value)
    raise invalid(name, value, f"a whole number from 1 to {at_most}")


def one_of(given: Mapping[str, str], name: str, accepted: Sequence[str]) -> str:
    value = given.get(name, accepted[0])
    if value not in accepted:
        raise invalid(name, value, f"one of {', '.join(accepted)}")
    return value


def _cursor(
    given: Mapping[str, str], sort: str, compared: Mapping[str, SummaryKind]
) -> tuple[int, Any] | None:
    """The place of the last item of a page: its number, and its value of what is sorted by."""
    value = given.get("page[after]")
    if value is None:
        return None
    accepted = f"the cursor of a links.next with sort={sort}"
    if len(value) > CURSOR_CHARACTERS_MAX:
        raise invalid("page[after]", value, accepted)
    try:
        sorted_by, number, place = read_cursor(value)
        place = comparisons.place(compared.get(sort.removeprefix("-"), "text"), place)
    except (ValueError, TypeError):
        raise invalid("page[after]", value, accepted) from None
    if sorted_by != sort or type(number) is not int or not 0 <= number < 2**31:
        raise invalid("page[after]", value, accepted)
    return number, place


def cursor(sort: str, number: int, value: object) -> str:
    """Where the page that ends with this item ends."""
    return write_cursor((sort, number, value))


def write_cursor(parts: Sequence[object]) -> str:
    """Opaque to clients."""
    return base64.urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")


def read_cursor(value: str) -> Any:  # noqa: ANN401
    """Raises ValueError for what `write_cursor` has not written; the parts may be anything."""
    return orjson.loads(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))


def invalid(name: str, value: object, accepted: str) -> ParameterInvalid:
    error = field_error(f"query {name}", value, accepted)
    return ParameterInvalid(f"{name}={error['value']} does not fit; accepted: {accepted}", [error])


# ------------------------------------------------------------------------ what is answered


def resource(kind: str, identity: str, attributes: object, address: str) -> dict[str, Any]:
    return {
        "type": kind,
        "id": identity,
        "attributes": attributes,
        "links": {"self": address},
    }


def encode(
    data: Resource | Sequence[Resource] | orjson.Fragment,
    links: Mapping[str, str | None],
    meta: Mapping[str, Any] | None = None,
    included: Sequence[Resource] | None = None,
) -> bytes:
    """`included` is None where nothing else was asked for."""
    document: dict[str, Any] = {"jsonapi": {"version": "1.1"}, "links": links, "data": data}
    if included is not None:
        document["included"] = included
    if meta:
        document["meta"] = meta
    return orjson.dumps(document)


def fragment(text: str | None) -> orjson.Fragment | None:
    """JSON goes out as it is; nothing parses it here."""
    return None if text is None else orjson.Fragment(text)


def tagged(body: bytes, etag: str, *, age_seconds: int | None = None) -> Response:
    """An answer that a client may keep, and ask for again by its tag."""
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if age_seconds is not None:
        headers["Age"] = str(age_seconds)
    return Response(body, headers=headers, media_type=MEDIA_TYPE)


def unless_known(request: Request, answer: Response) -> Response:
    """The answer, or 304 to a client that has it."""
    condition = request.headers.get("if-none-match")
    if condition is None or not is_known(condition, answer.headers["etag"]):
        return answer
    return unchanged(answer)


def is_known(condition: str, etag: str) -> bool:
    """Whether If-None-Match names this tag (RFC 9110 13.1.2: compared weakly)."""
    tags = [tag.strip().removeprefix("W/") for tag in condition.split(",")]
    return etag in tags or tags == ["*"]


def unchanged(answer: Response) -> Response:
    kept = ("etag", "cache-control", "age")
    headers = {name: value for name, value in answer.headers.items() if name in kept}
    return Response(status_code=304, headers=headers)


def respond(
    data: Resource | Sequence[Resource] | orjson.Fragment,
    links: Mapping[str, str | None],
    *,
    meta: Mapping[str, Any] | None = None,
    included: Sequence[Resource] | None = None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    body = encode(data, links, meta, included)
    return Response(body, status, headers=headers, media_type=MEDIA_TYPE)


def link(path: str, parameters: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(parameters)}" if parameters else path


def self_link(path: str, query: Query) -> str:
    return link(path, query.given)


def page_links(path: str, query: Query, *, more: bool, after: str | None = None) -> dict[str, Any]:
    """first, next and prev. With a cursor the next page starts where this one ends, whatever
    is inserted meanwhile; pages are numbered until then."""
    places = {"page[number]", "page[after]"}
    same = {name: value for name, value in query.given.items() if name not in places}

    def page(**place: str) -> str:
        return link(path, same | {f"page[{name}]": value for name, value in place.items()})

    following = page(after=after) if after else page(number=str(query.number + 1))
    numbered = query.after is None and query.number > 1
    return {
        "self": self_link(path, query),
        "first": page(),
        "prev": page(number=str(query.number - 1)) if numbered else None,
        "next": following if more else None,
    }
