"""A run that is ordered: its row and the command that has it worked, in one transaction."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import StartRun
from services.chassis import outbox
from services.chassis.errors import field_error
from services.gateway.domain import NewRun
from services.gateway.errors import RunIdentical
from services.gateway.store import runs


async def start(tx: AsyncConnection, new: NewRun, *, pointer: str) -> UUID:
    """`pointer` is where the request names the sources. Raises RunIdentical."""
    if not new.dry_run:
        await _refuse_identical(tx, new, pointer)
    run_id = await runs.insert_run(tx, new)
    await outbox.add(
        tx,
        StartRun(
            run_id=run_id,
            sources=new.sources,
            genes=new.genes,
            priority=new.priority,
            strategy=new.strategy,
            retries=new.retries,
            dry_run=new.dry_run,
        ),
    )
    return run_id


async def _refuse_identical(tx: AsyncConnection, new: NewRun, pointer: str) -> None:
    """Files are fetched once for all runs that wait for them; an API would be asked twice."""
    await runs.lock_scope(tx, new.scope)
    other = await runs.find_fetching(tx, new.scope, new.sources)
    if other is None:
        return
    where = f"/api/runs/{other.run_id}"
    named = ", ".join(other.sources)
    rest = ", ".join(name for name in new.sources if name not in other.sources)
    accepted = f"{f'{rest} alone, ' if rest else ''}its end, or its cancelling at {where}/cancel"
    raise RunIdentical(
        f"run {other.run_id} ({where}) asks {named} for the same genes just now;"
        f" accepted: {accepted}",
        [field_error(pointer, named, accepted) | {"run": where}],
    )
