"""HGNC: the names and identifiers of all human genes, and the ids that were given up."""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic import ValidationError as Malformed

from services.annotator.domain import (
    Catalogue,
    Columns,
    Declaration,
    Entry,
    Expected,
    Record,
    RemoteFile,
    StoredFile,
    Unmapped,
    severity,
)
from services.annotator.errors import ReleaseRefused, SchemaChanged

Form = Literal["json", "tsv"]

COMPLETE_SET: Final = "hgnc_complete_set"
WITHDRAWN: Final = "withdrawn.txt"
COMPLETE_SET_BYTES_MAX: Final = 256 * 1024 * 1024  # It has 33 MB.
WITHDRAWN_BYTES_MAX: Final = 16 * 1024 * 1024  # It has 0.3 MB.

# Where the complete set is, in each of its two forms.
PATHS: Final[Mapping[Form, str]] = {
    "json": "json/json/hgnc_complete_set.json",
    "tsv": "tsv/tsv/hgnc_complete_set.txt",
}
# What is a list in the JSON, and in the table one cell with bars between its parts.
LISTS: Final = frozenset(
    "alias_symbol prev_symbol prev_name gene_group gene_group_id uniprot_ids omim_id"
    " refseq_accession ccds_id mgd_id rgd_id mane_select".split()
)
REQUIRED: Final = ("hgnc_id", "symbol", "status")
# Found by the start of its name, because the rest of it explains the form of the cell.
SUCCESSORS: Final = "MERGED_INTO_REPORT"
WITHDRAWN_COLUMNS: Final = ("HGNC_ID", "STATUS", "WITHDRAWN_SYMBOL", SUCCESSORS)
STATUSES: Final = {"Approved": "approved"}
WITHDRAWN_STATUSES: Final = {"Entry Withdrawn": "withdrawn", "Merged/Split": "merged"}
COMMON_SHARE: Final = 0.01
DATE_MODIFIED: Final = re.compile(rb'"date_modified"\s*:\s*"(\d{4}-\d{2}-\d{2})')
DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")

HgncId = Annotated[str, StringConstraints(pattern=r"^HGNC:[0-9]{1,9}$")]
Digits = Annotated[str, StringConstraints(pattern=r"^[0-9]+$")]
# Dates come with and without a time, which is always midnight.
Day = Annotated[date, BeforeValidator(lambda said: said[:10] if isinstance(said, str) else said)]

Fields = dict[str, Any]  # An entry by HGNC's own names.


class GeneGroup(BaseModel):
    model_config = ConfigDict(frozen=True, str_strip_whitespace=True)

    id: int
    name: str


class HgncGene(BaseModel):
    """What HGNC says of one id, approved or not.

    The fields up to `successors` are those from which the engine makes the catalogue. A field
    that is read under another name has that name as its alias, so a problem names HGNC's field.
    """

    model_config = ConfigDict(frozen=True, str_strip_whitespace=True)

    hgnc_id: HgncId
    status: Literal["approved", "withdrawn", "merged"] = Field(
        description="merged: the successors stand for it", json_schema_extra=severity("clinical")
    )
    symbol: str = Field(
        min_length=1,
        description="as HGNC writes it: C1orf127 has small letters",
        json_schema_extra=severity("major"),
    )
    name: str | None = None
    locus_group: str | None = Field(None, description="such as protein-coding gene")
    locus_type: str | None = None
    location: str | None = Field(None, description="cytogenetic band such as 7q34")
    entrez_id: Digits | None = Field(
        None, description="NCBI Gene id without prefix", json_schema_extra=severity("major")
    )
    ensembl_gene_id: str | None = Field(
        None, description="ENSG id without version", json_schema_extra=severity("major")
    )
    aliases: list[str] = Field([], validation_alias="alias_symbol")
    previous_symbols: list[str] = Field([], validation_alias="prev_symbol")
    successors: list[HgncId] = Field(
        [],
        validation_alias="MERGED_INTO_REPORT",
        description="HGNC ids, as the file has them: one may be withdrawn itself",
        json_schema_extra=severity("clinical"),
    )
    previous_names: list[str] = Field([], validation_alias="prev_name")
    gene_groups: list[GeneGroup] = Field([], description="gene_group_id with its gene_group")
    uniprot_ids: list[str] = Field([], description="accessions")
    refseq_accessions: list[str] = Field([], validation_alias="refseq_accession")
    mane_select_enst: str | None = Field(
        None,
        description="ENST id with version, of mane_select",
        json_schema_extra=severity("major"),
    )
    mane_select_nm: str | None = Field(
        None,
        description="NM_ id with version, of mane_select",
        json_schema_extra=severity("major"),
    )
    ccds_ids: list[str] = Field([], validation_alias="ccds_id")
    omim_ids: list[str] = Field([], validation_alias="omim_id", description="without prefix")
    mgd_ids: list[str] = Field([], validation_alias="mgd_id", description="mouse, MGI:n")
    rgd_ids: list[str] = Field([], validation_alias="rgd_id", description="rat, RGD:n")
    approved_at: Day | None = Field(None, validation_alias="date_approved_reserved")
    modified_at: Day | None = Field(
        None, validation_alias="date_modified", json_schema_extra=severity("none")
    )


class Hgnc:
    """`form` says which file is asked for. Whatever comes says itself what it is."""

    declaration = Declaration(
        name="hgnc",
        title="HGNC: approved human gene nomenclature",
        base_url="https://storage.googleapis.com/public-download-files/hgnc",
        homepage="https://www.genenames.org",
        licence="CC0",
        citation=(
            "HGNC Database, HUGO Gene Nomenclature Committee, EMBL-EBI;"
            " Seal et al. 2023, doi:10.1093/nar/gkac888"
        ),
        wire_format="hgnc_complete_set as of 2026, JSON or TSV, and withdrawn.txt",
        identifier="hgnc_id",
        joins=("hgnc_id",),
        value=HgncGene,
        ttl=timedelta(days=1),  # New files come on Tuesdays and Fridays.
        parser_version=1,
        requests_per_second=5,
        expected=Expected(
            records=(40_000, 80_000),
            unmapped_share_max=0.001,
            nulls_share_max={"entrez_id": 0.2, "ensembl_gene_id": 0.2},
            sentinels=("HGNC:9008", "HGNC:1100", "HGNC:11998"),  # PKD1, BRCA1, TP53.
        ),
        is_catalogue=True,
    )

    def __init__(self, form: Form = "json") -> None:
        self.files = (
            RemoteFile(COMPLETE_SET, PATHS[form], COMPLETE_SET_BYTES_MAX),
            RemoteFile(WITHDRAWN, "tsv/tsv/withdrawn.txt", WITHDRAWN_BYTES_MAX),
        )

    def version(self, files: Mapping[str, StoredFile]) -> str:
        """The day of the newest change in the complete set, the only date it says of itself.

        HGNC gives its releases no names, so two may have the same date: their hashes tell them
        apart. A set without dates is named by the day it was published, its ETag or its hash.
        """
        file = files[COMPLETE_SET]
        if days := _days(_content(file)):
            return max(days)
        if file.published:
            return file.published.isoformat()
        if file.etag:
            return file.etag.removeprefix("W/").strip('"')
        return file.sha256.hex()[:12]

    def read(
        self,
        files: Mapping[str, StoredFile],
        catalogue: Catalogue,  # noqa: ARG002 - it is made from what is read here
    ) -> Iterator[Entry]:
        """The approved genes, then what was withdrawn; of entries with one id the first counts."""
        places: dict[str, str] = {}
        for name, read in ((COMPLETE_SET, _read_complete_set), (WITHDRAWN, _read_withdrawn)):
            columns, entries = read(_content(files[name]))
            yield Columns(name, columns)
            for position, fields in entries:
                place = f"{name}, {position}"
                try:
                    value = HgncGene.model_validate(fields)
                except Malformed as error:
                    yield Unmapped(_key(fields, place), f"{place}: {_what_is_wrong(error)}")
                    continue
                if value.hgnc_id in places:
                    reason = f"{place}: the id is that of {places[value.hgnc_id]} already"
                    yield Unmapped(value.hgnc_id, reason)
                    continue
                places[value.hgnc_id] = place
                yield Record(value.hgnc_id, value, name, position, "hgnc_id")


_Table = tuple[Sequence[str], Iterator[tuple[int, Fields]]]


def _content(file: StoredFile) -> bytes:
    with file.open() as opened:
        return opened.read().removeprefix(codecs.BOM_UTF8)


def _is_json(content: bytes) -> bool:
    return content.lstrip().startswith(b"{")


def _read_complete_set(content: bytes) -> _Table:
    return _read_json(content) if _is_json(content) else _read_tsv(content)


def _days(content: bytes) -> list[str]:
    """The days on which records were changed."""
    if _is_json(content):  # Without reading the whole of it once more.
        return [day.decode() for day in DATE_MODIFIED.findall(content)]
    _, entries = _read_tsv(content)
    days = (DATE.match(fields.get("date_modified", "")) for _, fields in entries)
    return [day[0] for day in days if day]


def _read_tsv(content: bytes) -> _Table:
    """The columns, and each record with its line, the header being line 1."""
    try:
        rows = csv.reader(io.StringIO(content.decode(), newline=""), delimiter="\t", strict=True)
        header = [name.strip() for name in next(rows, [])]
        table = [(rows.line_num, cells) for cells in rows if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SchemaChanged(
            f"{COMPLETE_SET}: accepted is JSON with response.docs, or a table in UTF-8: {error}"
        ) from error
    for name in REQUIRED:
        if name not in header:
            raise SchemaChanged(
                f"{COMPLETE_SET}: no column {name} in the header {header!r:.300};"
                f" accepted is JSON with response.docs, or a table with {', '.join(REQUIRED)}"
            )
    for line, cells in table:
        if len(cells) != len(header):
            raise SchemaChanged(
                f"{COMPLETE_SET}, line {line} has {len(cells)} of {len(header)} cells"
            )
    return header, ((line, _fields_of(dict(map(_part, header, cells)))) for line, cells in table)


def _part(name: str, cell: str) -> tuple[str, Any]:
    if name not in LISTS:
        return name, cell.strip()
    return name, [part.strip() for part in cell.split("|") if part.strip()]


def _read_json(content: bytes) -> _Table:
    """The keys, and each record with its index in `docs`."""
    try:
        response = orjson.loads(content)["response"]
        # What is no object is an entry without any field: it is reported like the others.
        docs: list[Fields] = [doc if isinstance(doc, dict) else {} for doc in response["docs"]]
        announced = response.get("numFound", len(docs))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise SchemaChanged(
            f"{COMPLETE_SET}: accepted is JSON with response.docs: {error}"
        ) from error
    if len(docs) != announced:
        raise ReleaseRefused(f"{COMPLETE_SET} has {len(docs)} records, numFound is {announced}")
    for key in REQUIRED:
        if not any(key in doc for doc in docs):
            raise SchemaChanged(f"{COMPLETE_SET}: no record has the key {key}")
    found = Counter(key for doc in docs for key in doc)
    # What a few records have comes and goes; that says nothing of the form of all.
    keys = sorted(key for key, count in found.items() if count >= len(docs) * COMMON_SHARE)
    return keys, ((index, _fields_of(doc)) for index, doc in enumerate(docs))


def _fields_of(doc: Fields) -> Fields:
    """The record without its empty keys, and what takes two keys to say or is said by prefix."""
    fields = {key: value for key, value in doc.items() if value not in ("", None, [])}
    fields["status"] = STATUSES.get(str(doc.get("status")), doc.get("status"))
    ids, names = doc.get("gene_group_id") or [], doc.get("gene_group") or []
    if isinstance(ids, list) and isinstance(names, list) and len(ids) == len(names):
        fields["gene_groups"] = [
            {"id": id_, "name": name} for id_, name in zip(ids, names, strict=True)
        ]
    else:
        # No list of pairs: it is refused below, with both in the message.
        fields["gene_groups"] = {"gene_group_id": ids, "gene_group": names}
    for transcript in map(str, doc.get("mane_select") or []):
        if transcript.startswith("ENST"):
            fields["mane_select_enst"] = transcript
        elif transcript.startswith("NM_"):
            fields["mane_select_nm"] = transcript
    return fields


def _read_withdrawn(content: bytes) -> _Table:
    """The columns, and each entry with its line, the header being line 1."""
    try:
        lines = content.decode().replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise SchemaChanged(f"{WITHDRAWN} is not UTF-8: {error}") from error
    header = lines[0].split("\t")
    columns = [
        next((at for at, name in enumerate(header) if name.startswith(column)), None)
        for column in WITHDRAWN_COLUMNS
    ]
    if None in columns:
        missing = WITHDRAWN_COLUMNS[columns.index(None)]
        raise SchemaChanged(f"{WITHDRAWN}: the column {missing} is missing, there are {header}")
    entries = [
        (number, [cell.strip().strip('"') for cell in line.split("\t")])
        for number, line in enumerate(lines[1:], start=2)
        if line.strip()
    ]
    for number, cells in entries:
        if len(cells) > len(header):
            raise SchemaChanged(
                f"{WITHDRAWN}, line {number} has {len(cells)} of {len(header)} cells"
            )
    return [name.strip() for name in header], (
        (number, _withdrawn_fields(*(_cell(cells, at) for at in columns)))
        for number, cells in entries
    )


def _cell(cells: list[str], at: int | None) -> str:
    # Editors and scripts drop the tabs before empty cells at the end of a line.
    return cells[at] if at is not None and at < len(cells) else ""


def _withdrawn_fields(hgnc_id: str, status: str, symbol: str, successors: str) -> Fields:
    fields: Fields = {
        "hgnc_id": hgnc_id,
        "status": WITHDRAWN_STATUSES.get(status, status),
        "symbol": symbol,
    }
    if status == "Merged/Split":
        # Such as HGNC:12469|UBA1|Approved, HGNC:6692|LRP1|Approved.
        fields[SUCCESSORS] = [part.split("|")[0].strip() for part in successors.split(",")]
    return fields


def _key(fields: Fields, place: str) -> str:
    return str(fields.get("hgnc_id") or fields.get("symbol") or place)


def _what_is_wrong(error: Malformed) -> str:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{field} is missing"
    return f"{field} is {first['input']!r:.100}: {first['msg']}"
