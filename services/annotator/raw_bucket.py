"""A bucket of an S3-compatible service, as the raw store uses it: names, and bytes that stream.

It is imported where such a place is set, and nowhere else: the library behind it takes a while.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store
from typing_extensions import Buffer

from services.annotator.errors import RawStoreRefused, RawStoreUnavailable
from services.annotator.settings import AnnotatorSettings

if TYPE_CHECKING:  # There is none of it when the program runs.
    from obstore.store import S3Config, S3Credential

# What the library is not asked: it would end the process for a name that fits in no address.
ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[\w.-]+)*)/?", re.ASCII)
ENDPOINT = re.compile(r"https?://[a-zA-Z0-9.-]+(:\d{1,5})?/?", re.ASCII)

CONNECT_SECONDS = 5
REQUEST_SECONDS = 60  # One part, at 140 KB a second.
RETRIES_MAX = 3
RETRYING_SECONDS = 20  # Longer, and the batch had better wait.
PART_BYTES = 8 * 1024 * 1024  # Ten thousand of them are 80 GB.
PARTS_AT_ONCE = 2  # Of one file, in memory.
PROBE = "incoming-probe"  # Written and removed at each start.


class Bucket:
    """All names are below the address's prefix. Calls block; each has a deadline.

    Raises RawStoreUnavailable. Neither that nor the log ever has a key's secret.
    """

    def __init__(self, settings: AnnotatorSettings) -> None:
        """Raises RawStoreRefused for settings that can be no place; nobody is asked yet."""
        self._settings = settings
        self._store = _connect(settings)

    def check(self) -> None:
        """Whether all may be done here that is done. Raises RawStoreRefused if not."""
        try:
            with self.translated():
                self._put(PROBE, iter([b""]))
                obstore.delete(self._store, [PROBE])
                for _ in obstore.list(self._store):
                    break
        except RawStoreUnavailable as error:
            said = str(error)
            address, key = self._settings.raw_store, self._settings.raw_s3_access_key_id
            if "NoSuchBucket" in said:
                raise RawStoreRefused(
                    f"ANNOTATOR_RAW_STORE={address} names a bucket that is not there;"
                    " accepted is one that is"
                ) from None
            if re.search(r"status code: (301|400|401|403)\b", said):
                raise RawStoreRefused(
                    f"ANNOTATOR_RAW_S3_ACCESS_KEY_ID={key} is refused; accepted is a key"
                    f" that may list, read, write and delete in its region: {said}"
                ) from None
            raise

    def holds(self, name: str) -> bool:
        with self.translated():
            try:
                obstore.head(self._store, name)
            except FileNotFoundError:
                return False
            return True

    def put(self, name: str, pieces: Iterator[Buffer]) -> None:
        """Whole, or not at all: a name appears when its last piece has come."""
        with self.translated():
            self._put(name, pieces)

    def _put(self, name: str, pieces: Iterator[Buffer]) -> None:
        obstore.put(self._store, name, pieces, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)

    def open(self, name: str) -> io.BufferedReader:
        """Its bytes, a part at a time; nothing is held open between two of them."""
        with self.translated():
            file = obstore.open_reader(self._store, name, buffer_size=PART_BYTES)
        return io.BufferedReader(_Reading(self, file), io.DEFAULT_BUFFER_SIZE)

    def remove(self, names: Sequence[str]) -> None:
        """At most 1,000. Names that are not there are none."""
        with self.translated():
            obstore.delete(self._store, names)

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Every name, with the bytes that it takes."""
        with self.translated():
            for page in obstore.list(self._store):
                for found in page:
                    yield found["path"], found["size"]

    @contextmanager
    def translated(self) -> Iterator[None]:
        """What the library raises says much; its first line says what happened."""
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            raise RawStoreUnavailable(f"{self._settings.raw_store}: {_reason(error)}") from None


class _Reading(io.RawIOBase):
    def __init__(self, bucket: Bucket, file: "obstore.ReadableFile") -> None:
        self._bucket = bucket
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        into = memoryview(buffer)
        with self._bucket.translated():
            piece = memoryview(self._file.read(len(into)))
        into[: len(piece)] = piece
        return len(piece)


class _Key:
    """What the library asks when it signs."""

    def __init__(self, key: str, secret: str) -> None:
        self._key = key
        self._secret = secret

    def __call__(self) -> "S3Credential":
        return {"access_key_id": self._key, "secret_access_key": self._secret, "expires_at": None}


def _connect(settings: AnnotatorSettings) -> S3Store:
    address = ADDRESS.fullmatch(settings.raw_store)
    if address is None:
        raise RawStoreRefused(
            f"ANNOTATOR_RAW_STORE={_shown(settings.raw_store)} is no place; accepted is s3://bucket/prefix,"
            " or nothing: then files are kept in ANNOTATOR_RAW_FOLDER"
        )
    endpoint, key = settings.raw_s3_endpoint, settings.raw_s3_access_key_id
    if endpoint and not ENDPOINT.fullmatch(endpoint):
        raise RawStoreRefused(
            f"ANNOTATOR_RAW_S3_ENDPOINT={_shown(endpoint)} is no endpoint; accepted is http://host:port,"
            " https://host:port, or nothing: then it is that of AWS"
        )
    secret = settings.raw_s3_secret_access_key.get_secret_value()
    if bool(key) != bool(secret):
        raise RawStoreRefused(
            f"ANNOTATOR_RAW_S3_ACCESS_KEY_ID={key} and ANNOTATOR_RAW_S3_SECRET_ACCESS_KEY belong"
            " together; accepted are both, or none: then those that the machine provides"
        )
    config: S3Config = {"region": settings.raw_s3_region}
    if endpoint:
        config["endpoint"] = endpoint.rstrip("/")
    return S3Store(
        address[1],
        prefix=address[2].strip("/") or None,
        config=config,
        # Not among the other settings, where a session's token of the environment would join it.
        credential_provider=_Key(key, secret) if key else None,
        client_options={
            "allow_http": endpoint.startswith("http:"),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "timeout": timedelta(seconds=REQUEST_SECONDS),
        },
        retry_config={
            "max_retries": RETRIES_MAX,
            "retry_timeout": timedelta(seconds=RETRYING_SECONDS),
        },
    )


def _shown(address: str) -> str:
    """Some services' addresses may have a password, and so may a mistaken one."""
    return re.sub(r"//[^/]*@", "//…@", address)


def _reason(error: Exception) -> str:
    said, code = str(error), re.search(r"<Code>(\w+)</Code>", str(error))
    first = said.split("\n", 1)[0].split(": <", 1)[0]
    return f"{first} ({code[1]})" if code else first
