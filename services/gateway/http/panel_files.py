"""A list of genes that comes as a file: the body of a request, or the one file of a form."""

from collections.abc import Mapping

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from services.chassis.errors import field_error
from services.gateway.errors import MediaUnknown, UploadUnreadable
from services.gateway.jsonapi import Query
from services.gateway.tables import Format

MEDIA: Mapping[str, Format] = {
    "text/plain": "txt",
    "text/csv": "csv",
    "text/tab-separated-values": "tsv",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}
MULTIPART = "multipart/form-data"
# In the OpenAPI document. The one file of a form may have any name.
UPLOADED = {
    "requestBody": {
        "required": True,
        "content": {
            **{media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA},
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                    "additionalProperties": False,
                }
            },
        },
    }
}
# What says nothing of a part of a form, so that the name of its file does.
_VAGUE = ("", "application/octet-stream", "application/vnd.ms-excel")


async def file_of(request: Request) -> tuple[bytes, Format]:
    """The content of an upload and what it is. Raises MediaUnknown and UploadUnreadable."""
    media = _media(request.headers.get("content-type", ""))
    if media != MULTIPART:
        return await request.body(), _format(media, "")
    try:
        form = await request.form(max_files=1, max_fields=0)
    except HTTPException as error:
        if error.status_code != 400:
            raise
        accepted = "a form with one file and nothing else; what is said of it is in the query"
        refused = field_error("/", str(error.detail), accepted)
        raise UploadUnreadable(f"{refused['value']}; accepted: {accepted}", [refused]) from None
    try:
        files = [one for one in form.values() if isinstance(one, UploadFile)]
        if len(files) != 1:
            accepted = "a form with one file"
            raise UploadUnreadable(
                f"the form has no file; accepted: {accepted}",
                [field_error("/", f"{len(files)} files", accepted)],
            )
        (file,) = files
        return await file.read(), _format(_media(file.content_type or ""), file.filename or "")
    finally:
        await form.close()


def _media(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _format(media: str, filename: str) -> Format:
    ending = filename.rpartition(".")[2].lower()
    if media in _VAGUE and ending in MEDIA.values():
        return next(form for form in MEDIA.values() if form == ending)
    if media not in MEDIA:
        accepted = f"{', '.join(MEDIA)} or {MULTIPART}"
        error = field_error("header Content-Type", media, accepted)
        raise MediaUnknown(f"{error['value']!r} is not read; accepted: {accepted}", [error])
    return MEDIA[media]


def key_of(query: Query, form: Format) -> bytes:
    return f"{form} {sorted(query.given.items())} ".encode(errors="replace")
