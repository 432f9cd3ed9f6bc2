"""An S3 server in a process of its own, with nothing in it but what a test writes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import httpx2

from infra.ports import HOST, find_free

START_SECONDS_MAX = 60.0
SECRET = "what-only-the-two-of-us-know"  # noqa: S105 - it opens nothing
REQUEST_SECONDS = 10.0


@dataclass(frozen=True)
class S3Server:
    endpoint: str

    def make_bucket(self) -> dict[str, str]:
        """A new bucket. Returns the annotator's settings for a place in it."""
        name = f"raw-{uuid4().hex}"
        answer = httpx2.put(f"{self.endpoint}/{name}", timeout=REQUEST_SECONDS)
        answer.raise_for_status()
        return self.settings(name)

    def settings(self, bucket: str) -> dict[str, str]:
        return {
            "raw_store": f"s3://{bucket}/some/prefix",
            "raw_s3_endpoint": self.endpoint,
            "raw_s3_access_key_id": "key-of-a-test",
            "raw_s3_secret_access_key": SECRET,
        }


@contextmanager
def keep_s3(*, knows_no_key: bool = False) -> Iterator[S3Server]:
    """It takes any key; or none, so that each is a wrong one."""
    port = find_free()
    server = S3Server(f"http://{HOST}:{port}")
    process = subprocess.Popen(
        (sys.executable, "-m", "moto.server", "--host", HOST, "--port", str(port)),
        env={**os.environ, **({"INITIAL_NO_AUTH_ACTION_COUNT": "0"} if knows_no_key else {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(process, server.endpoint)
        yield server
    finally:
        process.kill()
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", endpoint: str) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the S3 server ended with {process.returncode}"
        try:
            httpx2.get(f"{endpoint}/moto-api/", timeout=REQUEST_SECONDS)
        except httpx2.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"the S3 server does not answer after {START_SECONDS_MAX} s")
