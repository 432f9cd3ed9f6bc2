"""Makes and drops databases, each with the roles and schemas of `roles.sql`."""

import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import asyncpg

from infra.errors import ClusterError

ROLES_SQL = Path(__file__).with_name("roles.sql")
OWNER = "annobus"
CONNECT_TIMEOUT_SECONDS = 10.0
STATEMENT_TIMEOUT_SECONDS = 60.0
NAME_PATTERN = re.compile(r"[a-z_][a-z0-9_]{0,62}")


async def create_database(
    admin_url: str, name: str, template: str | None, passwords: Mapping[str, str]
) -> None:
    """Makes it unless it exists; a template must have no sessions. `passwords`: role → password."""
    _check_name(name)
    async with _connect(admin_url) as admin:
        exists = await admin.fetchval("SELECT true FROM pg_database WHERE datname = $1", name)
        if not exists:
            copied_from = f' TEMPLATE "{_check_name(template)}"' if template else ""
            try:
                await admin.execute(f'CREATE DATABASE "{name}"{copied_from}')
            except asyncpg.InvalidCatalogNameError:
                raise ClusterError(
                    f"there is no database {template!r} to copy {name!r} from"
                ) from None
    async with _connect(admin_url, database=name) as inside:
        for role, password in passwords.items():
            await inside.execute(
                "SELECT set_config($1, $2, false)", f"annobus.{role}_password", password
            )
        await inside.execute(ROLES_SQL.read_text())
        await inside.execute(f'ALTER DATABASE "{name}" OWNER TO {OWNER}')


async def drop_database(admin_url: str, name: str) -> None:
    """Ends the sessions in it; one that does not exist is no error."""
    async with _connect(admin_url) as admin:
        await admin.execute(f'DROP DATABASE IF EXISTS "{_check_name(name)}" WITH (FORCE)')


@contextlib.asynccontextmanager
async def _connect(
    url: str, database: str | None = None
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(
        url,
        timeout=CONNECT_TIMEOUT_SECONDS,
        command_timeout=STATEMENT_TIMEOUT_SECONDS,
        ssl=False,
        database=database,
    )
    try:
        yield connection
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT_SECONDS)


def _check_name(name: str) -> str:
    if not NAME_PATTERN.fullmatch(name):
        raise ClusterError(
            f"{name!r} cannot name a database: use up to 63 small letters, digits and underscores, "
            "no digit first"
        )
    return name
