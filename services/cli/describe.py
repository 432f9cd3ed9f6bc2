"""Writes docs/sources.md from what the sources declare."""

import sys
from collections.abc import Iterator
from pathlib import Path

from services.annotator.domain import Source, is_api, severities, summary_fields
from services.annotator.sources import SOURCES

PAGE = Path("docs/sources.md")
INTRODUCTION = """\
# Sources

Written by `make docs` from what each source declares in `services/annotator/sources/`. What runs
says the same at `GET /api/sources/{name}`, with the schema of its values.
"""


def page() -> str:
    return "\n".join([INTRODUCTION, *(line for one in SOURCES.values() for line in _source(one))])


def _source(source: Source) -> Iterator[str]:
    declared = source.declaration
    yield f"## {declared.name}"
    yield ""
    yield f"{declared.title}. <{declared.homepage}>"
    yield ""
    yield f"- Licence: {declared.licence}. Cite: {declared.citation}."
    yield f"- Format: {declared.wire_format}. Parser version {declared.parser_version}."
    yield f"- Matched by {', then '.join(f'`{one}`' for one in declared.joins)}."
    pages = f", {source.page_size} genes each" if is_api(source) else ""
    yield f"- Asked at most {declared.requests_per_second:g} times a second{pages}."
    yield f"- Stale after {declared.ttl.days} days."
    if declared.score is not None:
        yield f"- Score: `{declared.score}`."
    if declared.expected is not None:
        least, most = declared.expected.records
        yield (
            f"- A release is quarantined unless it has {least:,} to {most:,} records, at most"
            f" {declared.expected.unmapped_share_max:.1%} unmapped entries, the genes"
            f" {', '.join(declared.expected.sentinels)}, and changes at most"
            f" {declared.expected.churn_share_max:.0%} of the values."
            + "".join(
                f" Of {name} a real one has {low:,} to {high:,}."
                for name, (low, high) in declared.expected.counts.items()
            )
        )
    yield ""
    yield "| field | a change of it is | filter and sort | what it is |"
    yield "|---|---|---|---|"
    compared = summary_fields(declared.value)
    for name, severity in severities(declared.value).items():
        meaning = declared.value.model_fields[name].description or ""
        kind = compared.get(name, "")
        yield f"| `{name}` | {severity} | {kind} | {meaning.replace('|', '¦')} |"
    yield ""


def main() -> int:
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
