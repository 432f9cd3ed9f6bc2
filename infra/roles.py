"""Makes the database `annobus`, its roles and its schemas in a PostgreSQL of your own: the step
before `annobus migrate`, and the only one that needs the administrator's address.

Run as `python -m infra.roles`. Again it changes nothing but the passwords.
"""

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from urllib.parse import urlsplit

import asyncpg

from infra import databases
from infra.addresses import DATABASE, DATABASE_URLS
from infra.errors import ClusterError

ADMIN_URL = "ADMIN_DATABASE_URL"
ROLES = tuple(DATABASE_URLS.values())
# A password becomes part of an address, where other characters mean something.
PASSWORD_PATTERN = re.compile(r"[A-Za-z0-9._~-]+")
ACCEPTED = "letters of the English alphabet, digits and . _ ~ -"


def passwords(environment: Mapping[str, str]) -> dict[str, str]:
    """Role → password, from `<ROLE>_PASSWORD`. Raises ClusterError, which shows none of them."""
    given = {role: environment.get(f"{role.upper()}_PASSWORD", "") for role in ROLES}
    missing = [f"{role.upper()}_PASSWORD" for role, password in given.items() if not password]
    if missing:
        raise ClusterError(f"{', '.join(missing)} must be set: each role has a password")
    for role, password in given.items():
        if not PASSWORD_PATTERN.fullmatch(password):
            raise ClusterError(
                f"{role.upper()}_PASSWORD cannot stand in an address: it may have only {ACCEPTED}"
            )
    return given


def main(environment: Mapping[str, str]) -> None:
    try:
        asyncio.run(_prepare(environment))
    except (ClusterError, OSError, ValueError, asyncpg.PostgresError) as error:
        sys.exit(f"annobus: the database was not prepared: {error}")
    print(f"database {DATABASE}: roles and schemas are as they should be", flush=True)


async def _prepare(environment: Mapping[str, str]) -> None:
    address = environment.get(ADMIN_URL, "")
    # What stands behind a / or before an @ in a password would be taken for something else.
    if not PASSWORD_PATTERN.fullmatch(urlsplit(address).password or ""):
        raise ClusterError(
            f"{ADMIN_URL} must be set, to postgresql://role:password@host:port/database, "
            f"the address of an administrator whose password has only {ACCEPTED}"
        )
    await databases.create_database(address, DATABASE, None, passwords(environment))


if __name__ == "__main__":
    main(os.environ)
