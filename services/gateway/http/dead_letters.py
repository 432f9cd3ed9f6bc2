"""Dead letters: list them, look into one, and retry or discard one or many."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.messages import GENES_MAX
from services.chassis.errors import field_error
from services.gateway import jsonapi, shapes
from services.gateway.domain import NewRun
from services.gateway.errors import (
    DeadLetterDecided,
    DeadLetterUnknown,
    DeadLetterUnsendable,
    DecisionInvalid,
    RunIdentical,
)
from services.gateway.http import answers, orders, schemas
from services.gateway.http.bodies import TEXT, Body, Note, Person, given, given_true
from services.gateway.store import dead_letters
from services.gateway.store.dead_letters import RETRY_BYTES_MAX, Row, Undone, Verdict, Wanted

BULK_MAX = 1_000  # Letters that one request decides about.
BULK_BYTES_MAX = 32 * 1024 * 1024  # Of messages that one request sends again.
FILTER_CHARACTERS_MAX = 2_000
HEADERS_SHOWN_MAX = 200  # Of one letter; a record of nothing else has 100,000.

FILTERS = ("state", "kind", "topic", "source", "run", "type")
CHOICES = FILTERS[1:]  # By which many are decided about: all of them are open.

_ADDRESS = "/api/dead-letters"
_NOTHING = jsonapi.Allowed()
_LISTED = jsonapi.Allowed(
    paged=True,
    filters=FILTERS,
    values={
        "state": shapes.enum(dead_letters.STATES),
        "kind": shapes.enum(dead_letters.KINDS),
        "run": shapes.ID,
    },
)

Filter = Annotated[str, Field(min_length=1, max_length=FILTER_CHARACTERS_MAX, pattern=TEXT)]


class RetryOfLetter(Body):
    """Who has it tried again, and why if that is to be kept."""

    invalid = DecisionInvalid

    by: Person
    note: Note | None = None


class Discard(Body):
    """Who has given it up, and why."""

    invalid = DecisionInvalid

    by: Person
    note: Note


class Many(Body):
    """Which open letters: the filters of the list, values separated by commas; or all of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [given_true("all"), {"anyOf": [given(name) for name in CHOICES]}]
        }
    )
    invalid = DecisionInvalid

    by: Person
    max: Annotated[int, Field(ge=1, le=BULK_MAX)]
    all: bool | None = None
    state: Literal["open"] = "open"
    kind: Filter | None = None
    topic: Filter | None = None
    source: Filter | None = None
    run: Filter | None = None
    type: Filter | None = None


class RetryMany(Many):
    note: Note | None = None


class DiscardMany(Many):
    note: Note


@dataclass
class Sent:
    """What a retry has set off: the letters that are retried, and the runs over their batches."""

    ids: list[UUID] = field(default_factory=list)
    run_ids: list[UUID] = field(default_factory=list)


@dataclass(frozen=True)
class DeadLetterRoutes:
    engine: AsyncEngine

    async def list_letters(self, request: Request) -> Response:
        """What was put aside because another try would not help, newest first."""
        query = _LISTED.parse(request.query_params)
        async with self.engine.connect() as connection:
            try:
                wanted = await _read(connection, query.filters)
            except _Unfit as unfit:
                raise jsonapi.invalid(
                    f"filter[{unfit.name}]", unfit.value, unfit.accepted
                ) from None
            found = await dead_letters.list_letters(
                connection, wanted, query.size + 1, query.offset
            )
        links = jsonapi.page_links(_ADDRESS, query, more=len(found) > query.size)
        return jsonapi.respond([_resource(row) for row in found[: query.size]], links)

    async def get_letter(self, request: Request, letter_id: str) -> Response:
        """A letter with all that it holds. Bytes that are no text are in base64; `encoding` says
        which they are."""
        _NOTHING.parse(request.query_params)
        async with self.engine.connect() as connection:
            row = await dead_letters.get_letter(connection, letter_id)
            content = await dead_letters.get_content(connection, row["id"])
        document = _resource(row)
        document["attributes"] |= {
            "refusal": _refusal(row),
            "key": _bytes(content.key),
            "header_count": len(content.headers),
            "headers": [
                {"name": name, **_bytes(value)}
                for name, value in content.headers[:HEADERS_SHOWN_MAX]
            ],
            "payload": _payload(content.payload),
            "batch": content.batch,
        }
        return jsonapi.respond(document, {"self": document["links"]["self"]})

    async def retry(self, request: Request, letter_id: str, decision: RetryOfLetter) -> Response:
        """Send a message to its topic again, as it came; or have what is left of a batch worked
        by a new run, which `links.retry_run` names."""
        verdict = Verdict("retried", decision.by, decision.note)
        return await self._decide(request, letter_id, verdict)

    async def discard(self, request: Request, letter_id: str, decision: Discard) -> Response:
        """Give it up. It is kept, with the note."""
        verdict = Verdict("discarded", decision.by, decision.note)
        return await self._decide(request, letter_id, verdict)

    async def _decide(self, request: Request, letter_id: str, verdict: Verdict) -> Response:
        _NOTHING.parse(request.query_params)
        async with self.engine.begin() as tx:
            row = await dead_letters.get_letter(tx, letter_id, lock=True)
            if row["state"] == "open":
                if verdict.state == "retried":
                    if (refusal := _refusal(row)) is not None:
                        error = field_error("path letter_id", letter_id, "one that can be sent")
                        raise DeadLetterUnsendable(f"{letter_id}: {refusal}", [error])
                    await _retry(tx, [row], verdict, "path letter_id")
                else:
                    await dead_letters.decide(tx, [row["id"]], verdict)
                row = await dead_letters.get_letter(tx, letter_id)
            elif Verdict(row["state"], row["decided_by"], row["note"]) != verdict:
                raise _decided(row)
        document = _resource(row)
        address = document["links"]["self"]
        return jsonapi.respond(
            document, {"self": address}, status=202, headers={"Location": address}
        )

    async def retry_many(self, request: Request, decision: RetryMany) -> Response:
        """Retry the oldest open letters that these filters find and that can be sent again. Batches
        of one source are worked by one run together; while another asks an API for the same genes,
        none is retried."""
        return await self._decide_many(
            request, decision, Verdict("retried", decision.by, decision.note)
        )

    async def discard_many(self, request: Request, decision: DiscardMany) -> Response:
        """Discard the oldest open letters that these filters find."""
        return await self._decide_many(
            request, decision, Verdict("discarded", decision.by, decision.note)
        )

    async def _decide_many(self, request: Request, many: Many, verdict: Verdict) -> Response:
        _NOTHING.parse(request.query_params)
        given = _chosen(many)
        async with self.engine.begin() as tx:
            try:
                wanted = await _read(tx, {name: _split(value) for name, value in given.items()})
            except _Unfit as unfit:
                error = field_error(f"/{unfit.name}", unfit.value, unfit.accepted)
                detail = f"{unfit.name}={error['value']} does not fit; accepted: {unfit.accepted}"
                raise DecisionInvalid(detail, [error]) from None
            is_retry = verdict.state == "retried"
            rows = await dead_letters.lock_open(tx, wanted, many.max, sendable=is_retry)
            if is_retry:
                sent = await _retry(tx, _bounded(rows), verdict, "/source")
            else:
                sent = Sent([row["id"] for row in rows])
                await dead_letters.decide(tx, sent.ids, verdict)
            left = await dead_letters.count_wanted(tx, wanted)
        meta = {
            f"{verdict.state}_count": len(sent.ids),
            "left_count": left,  # Open ones that the filters still find.
            "runs": [f"/api/runs/{run_id}" for run_id in sent.run_ids],
        }
        return jsonapi.respond([], {"self": _ADDRESS}, meta=meta, status=202)

    def router(self) -> APIRouter:
        router = APIRouter(tags=["dead letters"])
        one = f"{_ADDRESS}/{{letter_id}}"
        decided = {202: answers.accepted("DeadLetter")}
        errors = (DeadLetterUnknown, DeadLetterDecided)
        retried, discarded = (
            {202: answers.none(meta=schemas.meta_decided(state))}
            for state in ("retried", "discarded")
        )
        for method, path, handler, described in (
            (
                "GET",
                _ADDRESS,
                self.list_letters,
                answers.route({200: answers.many("DeadLetter", answers.PAGES)}, allowed=_LISTED),
            ),
            (
                "POST",
                f"{_ADDRESS}/retry",
                self.retry_many,
                answers.route(retried, RunIdentical, body=RetryMany),
            ),
            (
                "POST",
                f"{_ADDRESS}/discard",
                self.discard_many,
                answers.route(discarded, body=DiscardMany),
            ),
            (
                "GET",
                one,
                self.get_letter,
                answers.route({200: answers.one("DeadLetterInDetail")}, DeadLetterUnknown),
            ),
            (
                "POST",
                f"{one}/retry",
                self.retry,
                answers.route(
                    decided, *errors, DeadLetterUnsendable, RunIdentical, body=RetryOfLetter
                ),
            ),
            (
                "POST",
                f"{one}/discard",
                self.discard,
                answers.route(decided, *errors, body=Discard),
            ),
        ):
            router.add_api_route(path, handler, methods=[method], **described)
        return router


# ---------------------------------------------------------------------------------- retries


async def _retry(tx: AsyncConnection, rows: Sequence[Row], verdict: Verdict, pointer: str) -> Sent:
    """Messages and runs go out with the transaction that marks their letters. Raises RunIdentical
    when a run asks an API for the same genes just now."""
    sent = Sent()
    messages = [row["id"] for row in rows if row["kind"] == "message"]
    if messages:
        await dead_letters.send_again(tx, messages)
        await dead_letters.decide(tx, messages, verdict)
        sent.ids += messages
    batches = [row["id"] for row in rows if row["kind"] == "batch"]
    for source, genes, ids in _orders(await dead_letters.list_undone(tx, batches)):
        what = f"dead letter {ids[0]}" if len(ids) == 1 else f"{len(ids)} batches"
        new = NewRun(
            name=f"retry of {what}",
            sources=(source,),
            genes=genes,
            gene_count=None if genes is None else len(genes),
        )
        run_id = await orders.start(tx, new, pointer=pointer)
        await dead_letters.decide(tx, ids, verdict, run_id)
        sent.ids += ids
        sent.run_ids.append(run_id)
    return sent


Ordered = tuple[str, tuple[str, ...] | None, list[UUID]]


def _orders(undone: Sequence[Undone]) -> list[Ordered]:
    """As few runs as do it: those of a source together, up to as many genes as a command holds.
    What takes all genes does the other batches of that source as well."""
    found: list[Ordered] = []
    for source in dict.fromkeys(one.source for one in undone):
        batches = [one for one in undone if one.source == source]
        if any(one.genes is None or len(one.genes) > GENES_MAX for one in batches):
            found.append((source, None, [one.letter_id for one in batches]))
            continue
        genes: dict[str, None] = {}
        ids: list[UUID] = []
        for one in batches:
            more = dict.fromkeys(one.genes or ())
            if ids and len(genes | more) > GENES_MAX:
                found.append((source, tuple(genes), ids))
                genes, ids = {}, []
            genes |= more
            ids.append(one.letter_id)
        found.append((source, tuple(genes), ids))
    return found


def _bounded(rows: Sequence[Row]) -> Sequence[Row]:
    """As many of the first as may be sent at once."""
    size = 0
    for place, row in enumerate(rows):
        size += row["bytes"] or 0
        if size > BULK_BYTES_MAX and place:
            return rows[:place]
    return rows


def _refusal(row: Row) -> str | None:
    """Why it cannot be sent again."""
    place = f"{row['topic']}/{row['partition']}/{row['offset']}"
    match row["refusal"]:
        case "source":
            return f"{row['source']} is retired: nobody works its batches"
        case "batch":
            return f"batch {row['batch_id']} is dead no more: a later run has had it done"
        case "left":
            return f"nothing of it was kept: it lies at {place}, as long as its topic keeps it"
        case "topic":
            return f"{row['topic']} is no topic that a message is sent to"
        case "bytes":
            return f"it has {row['bytes']} bytes; at most {RETRY_BYTES_MAX} can be sent again"
    return None


def _decided(row: Row) -> DeadLetterDecided:
    note = "" if row["note"] is None else f": {row['note']}"
    detail = f"{row['id']} was {row['state']} by {row['decided_by']} at {row['decided_at']}{note}"
    error = field_error("path letter_id", str(row["id"]), "a letter that is open")
    return DeadLetterDecided(detail, [error])


# ---------------------------------------------------------------------------------- filters


class _Unfit(Exception):
    def __init__(self, name: str, value: object, accepted: str) -> None:
        self.name, self.value, self.accepted = name, value, accepted


def _chosen(many: Many) -> Mapping[str, str]:
    """Its filters. Raises DecisionInvalid for neither filters nor all, and for both: a filter that
    was left out, or is null, would decide about every letter there is."""
    given = {name: getattr(many, name) for name in CHOICES if getattr(many, name) is not None}
    if bool(given) == bool(many.all):
        accepted = f"some of {', '.join(f'/{name}' for name in CHOICES)}, or /all: true"
        error = field_error("/all", many.all, accepted)
        raise DecisionInvalid(f"which letters? accepted: {accepted}", [error])
    return given


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


async def _read(connection: AsyncConnection, given: Mapping[str, Sequence[str]]) -> Wanted:
    """Raises _Unfit for a value that no letter can have."""
    known: dict[str, Sequence[str]] = {"state": dead_letters.STATES, "kind": dead_letters.KINDS}
    if "topic" in given:
        known["topic"] = await dead_letters.list_topics(connection)
    if "source" in given:
        known["source"] = await dead_letters.list_sources(connection)
    for name, accepted in known.items():
        if name in given and not (given[name] and set(given[name]) <= set(accepted)):
            raise _Unfit(name, ",".join(given[name]), f"some of {', '.join(accepted)}")
    for name, values in given.items():
        if not values:
            raise _Unfit(name, "", "one value at least")
    ids = None
    if "run" in given:
        try:
            ids = [UUID(value) for value in given["run"]]
        except ValueError:
            raise _Unfit("run", ",".join(given["run"]), "ids of runs") from None
    texts = {name: given.get(name) for name in FILTERS if name != "run"}
    return Wanted(**texts, run=ids)


# ---------------------------------------------------------------------------------- answers


def _resource(row: Row) -> dict[str, Any]:
    attributes = {name: value for name, value in row.items() if name not in ("id", "refusal")}
    address = f"{_ADDRESS}/{row['id']}"
    found = jsonapi.resource("dead-letters", str(row["id"]), attributes, address)
    for name in ("retry_run", "retry_of"):
        other = row["retry_run_id"] if name == "retry_run" else row["retry_of"]
        place = "/api/runs" if name == "retry_run" else _ADDRESS
        found["links"][name] = None if other is None else f"{place}/{other}"
    return found


def _bytes(value: bytes | None) -> dict[str, str | None]:
    """Text where it is, else base64."""
    if value is None:
        return {"value": None, "encoding": None}
    try:
        return {"value": value.decode(), "encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"value": b64encode(value).decode(), "encoding": "base64"}


def _payload(value: bytes | None) -> dict[str, str | None]:
    """Text where it is JSON, else base64."""
    if value is not None:
        try:
            orjson.loads(value)
        except orjson.JSONDecodeError:
            return {"value": b64encode(value).decode(), "encoding": "base64"}
    return _bytes(value)
