"""A bare FastAPI route that answers with given bytes: what the framework and the server take.

`python -m benchmarks.bare PORT MEDIA_TYPE` answers `GET /` with what it reads from standard input,
as the gateway is served, until it is ended.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response

from benchmarks.child import PROJECT
from benchmarks.reader import START_SECONDS_MAX
from infra.ports import find_free

POLL_SECONDS = 0.05


@asynccontextmanager
async def serving(body: bytes, media_type: str) -> AsyncIterator[str]:
    """Yields the address of the route's server."""
    port = find_free()
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.bare", str(port), media_type),
        cwd=PROJECT,
        stdin=asyncio.subprocess.PIPE,
    )
    try:
        assert child.stdin is not None
        child.stdin.write(body)
        child.stdin.close()
        url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(START_SECONDS_MAX), httpx2.AsyncClient(trust_env=False) as http:
            while not await _answers(http, url):
                await asyncio.sleep(POLL_SECONDS)
        yield url
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def _answers(http: httpx2.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).is_success
    except httpx2.TransportError:
        return False


def main() -> None:
    port, media_type = sys.argv[1:]
    body = sys.stdin.buffer.read()
    app = FastAPI()

    @app.get("/")
    async def route() -> Response:
        return Response(body, media_type=media_type)

    uvicorn.run(
        app, host="127.0.0.1", port=int(port), log_config=None, access_log=False, lifespan="off"
    )


if __name__ == "__main__":
    main()
