"""Each fault of the mirror through the real client: which error, how soon, in how much memory."""

import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from services.annotator import upstream as client
from services.annotator.domain import is_api
from services.annotator.errors import UpstreamUnavailable
from services.annotator.sources import SOURCES
from services.annotator.upstream import Upstream
from services.chassis.errors import AnnobusError
from tests.integration.annotator.faults import CASES, DEADLINE_SECONDS, Case
from tests.system import Mirror

SECONDS_MAX = 15.0  # Of any failure, on a busy machine; 4 GiB would take longer to unpack.
MIB = 1 << 20

Ask = Callable[[], Awaitable[object]]


@pytest_asyncio.fixture(params=["a file of hpo", "a page of ensembl"])
async def ask(
    request: pytest.FixtureRequest, mirror: Mirror, tmp_path: Path
) -> AsyncIterator[tuple[str, Ask]]:
    """The source's name, and a question to it as the engine puts it."""
    name = request.param.split()[-1]
    source = SOURCES[name]
    upstream = Upstream(source.declaration, f"{mirror.url}/{name}")
    if is_api(source):
        yield name, lambda: upstream.post("lookup/id", {"ids": ["ENSG00000157764"] * 2})
    else:
        yield name, lambda: upstream.download(source.files[0], tmp_path, None, None)
    await upstream.close()


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_each_fault_has_its_error_and_ends_soon(
    ask: tuple[str, Ask], mirror: Mirror, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    name, question = ask
    for constant, seconds in case.deadlines.items():
        monkeypatch.setattr(client, constant, seconds)
    with mirror.fault(name, **case.fault):
        started = time.monotonic()
        with pytest.raises(AnnobusError, match=case.says) as raised:
            await question()
        assert time.monotonic() - started < SECONDS_MAX
    assert type(raised.value) is case.error
    monkeypatch.undo()
    assert await question()  # Nothing of it is left behind: no connection, no turn.


async def test_silence_is_given_up_long_before_the_deadline_of_a_file(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_SECONDS", DEADLINE_SECONDS)
    hpo = SOURCES["hpo"]
    assert not is_api(hpo)
    upstream = Upstream(hpo.declaration, f"{mirror.url}/hpo")
    with (
        mirror.fault("hpo", kind="hang"),
        pytest.raises(UpstreamUnavailable, match="ReadTimeout"),
    ):
        await upstream.download(hpo.files[0], tmp_path, None, None)
    await upstream.close()


async def test_a_late_answer_is_an_answer(ask: tuple[str, Ask], mirror: Mirror) -> None:
    name, question = ask
    with mirror.fault(name, kind="latency", seconds=0.3):
        started = time.monotonic()
        assert await question()
    assert time.monotonic() - started >= 0.3


async def test_a_bomb_is_refused_in_little_memory(ask: tuple[str, Ask], mirror: Mirror) -> None:
    """4 GiB in 4 MB: a file is never held, an answer is held up to its limit, twice at most."""
    name, question = ask
    held_max = client.ANSWER_BYTES_MAX * 2 if is_api(SOURCES[name]) else 0
    with mirror.fault(name, kind="bomb", unpacked_mib=4096):
        tracemalloc.start()
        try:
            with pytest.raises(AnnobusError, match="larger than"):
                await question()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < held_max + 8 * MIB
