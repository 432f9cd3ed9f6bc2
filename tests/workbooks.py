"""Workbooks as spreadsheets save them, and as nobody means well saves them."""

import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
# Style 1 shows a number as a date, style 2 by a pattern of the file's own.
_STYLES = f"""{_HEAD}<styleSheet xmlns="{_MAIN}">
<numFmts count="1"><numFmt numFmtId="164" formatCode="[$-409]d\\-mmm;@"/></numFmts>
<cellStyleXfs count="1"><xf numFmtId="14"/></cellStyleXfs>
<cellXfs count="3"><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="164"/></cellXfs>
</styleSheet>"""


def text(reference: str, said: str) -> str:
    return f'<c r="{reference}" t="inlineStr"><is><t>{said}</t></is></c>'


def shared(reference: str, place: int) -> str:
    return f'<c r="{reference}" t="s"><v>{place}</v></c>'


def number(reference: str, value: float, style: int = 0) -> str:
    return f'<c r="{reference}" s="{style}"><v>{value}</v></c>'


def mishap(reference: str, said: str) -> str:
    return f'<c r="{reference}" t="e"><v>{said}</v></c>'


def rows(*cells: Sequence[str], first: int = 1) -> str:
    return "".join(
        f'<row r="{place}">{"".join(row)}</row>' for place, row in enumerate(cells, start=first)
    )


def workbook(
    sheets: Mapping[str, str],
    texts: Sequence[str] = (),
    *,
    hidden: Sequence[str] = (),
    doctype: str = "",
    parts: Mapping[str, str] | None = None,
) -> bytes:
    """`sheets` are rows by name; `texts` are those that cells refer to."""
    states = dict.fromkeys(hidden, ' state="hidden"')
    named = "".join(
        f'<sheet name="{name}" sheetId="{place}" r:id="rId{place}"{states.get(name, "")}/>'
        for place, name in enumerate(sheets, start=1)
    )
    related = "".join(
        f'<Relationship Id="rId{place}" Type="{_OFFICE}/worksheet" '
        f'Target="worksheets/sheet{place}.xml"/>'
        for place in range(1, len(sheets) + 1)
    )
    files = {
        "_rels/.rels": f'{_HEAD}<Relationships xmlns="{_PACKAGE}"><Relationship Id="rId1" '
        f'Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'{_HEAD}<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}">'
        f"<sheets>{named}</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'{_HEAD}<Relationships xmlns="{_PACKAGE}">{related}'
        f'<Relationship Id="rS" Type="{_OFFICE}/styles" Target="styles.xml"/>'
        f'<Relationship Id="rT" Type="{_OFFICE}/sharedStrings" Target="/xl/sharedStrings.xml"/>'
        "</Relationships>",
        "xl/styles.xml": _STYLES,
        "xl/sharedStrings.xml": f'{_HEAD}<sst xmlns="{_MAIN}">{"".join(texts)}</sst>',
    } | {
        f"xl/worksheets/sheet{place}.xml": f'{_HEAD}{doctype}<worksheet xmlns="{_MAIN}">'
        f"<sheetData>{said}</sheetData></worksheet>"
        for place, said in enumerate(sheets.values(), start=1)
    }
    content = BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, said in (files | dict(parts or {})).items():
            packed.writestr(name, said)
    return content.getvalue()
