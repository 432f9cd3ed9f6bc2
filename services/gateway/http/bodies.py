"""What the bodies of requests have in common: texts with limits, and no field but the known."""

from typing import Annotated, Any, ClassVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.messages import GENES_MAX
from services.chassis.errors import RequestError, field_error
from services.gateway.domain import GENE_CHARACTERS_MAX
from services.gateway.errors import BodyUnexpected

UNKNOWN_FIELDS_MAX = 10  # Named in an answer.

# Of a route whose path says all there is to say, in the OpenAPI document.
NO_BODY = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {"schema": {"type": ["object", "null"], "maxProperties": 0}}
        },
    }
}
TEXT = r"^[^\x00]*$"
Text = Annotated[str, Field(min_length=1, max_length=GENE_CHARACTERS_MAX, pattern=TEXT)]
PERSON_CHARACTERS_MAX = 200
NOTE_CHARACTERS_MAX = 2_000
NAME_CHARACTERS_MAX = 200
SOURCES_MAX = 100
_SAID = r"^[^\x00]*[^\s\x00][^\x00]*$"  # Something at least, and nothing that cannot be stored.
Person = Annotated[str, Field(max_length=PERSON_CHARACTERS_MAX, pattern=_SAID)]
Note = Annotated[str, Field(max_length=NOTE_CHARACTERS_MAX, pattern=_SAID)]
RunName = Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS_MAX, pattern=TEXT)]
PanelName = Annotated[str, Field(max_length=NAME_CHARACTERS_MAX, pattern=_SAID)]
# One wrong entry is enough to know.
Genes = Annotated[list[Text], Field(min_length=1, max_length=GENES_MAX, fail_fast=True)]
Sources = Annotated[list[Text], Field(min_length=1, max_length=SOURCES_MAX, fail_fast=True)]


def given(name: str) -> dict[str, Any]:
    """A condition of a JSON Schema: a body has this field, and not as null."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def given_true(name: str) -> dict[str, Any]:
    return {"required": [name], "properties": {name: {"const": True}}}


class Body(BaseModel):
    """Raises `invalid` for a field that it does not have."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    invalid: ClassVar[type[RequestError]]

    @model_validator(mode="before")
    @classmethod
    def no_other_field(cls, body: object) -> object:
        """At once, and not one error for each of a million names."""
        if isinstance(body, dict):
            accepted = ", ".join(cls.model_fields)
            unknown = [name for name in body if name not in cls.model_fields]
            if unknown:
                errors = [
                    field_error(f"/{name}"[:GENE_CHARACTERS_MAX], body[name], accepted)
                    for name in unknown[:UNKNOWN_FIELDS_MAX]
                ]
                raise cls.invalid(
                    f"{len(unknown)} unknown fields, the first: {errors[0]['pointer']!r}; "
                    f"accepted: {accepted}",
                    errors,
                )
        return body


async def refuse_body(request: Request) -> None:
    """Where the path says all there is to say: who names a source in a body means that one, and
    would pause the whole run. Raises BodyUnexpected."""
    body = await request.body()
    if body.strip() not in (b"", b"{}", b"null"):
        accepted = "no body, or an empty object: the path says it all"
        error = field_error("/", body.decode(errors="replace"), accepted)
        raise BodyUnexpected(
            f"the body {error['value']!r} is not read; accepted: {accepted}", [error]
        )
