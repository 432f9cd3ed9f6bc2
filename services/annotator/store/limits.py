"""When an upstream may be called: one row each, which all workers share, by the database's clock.

Every statement stands alone and locks the row for as long as it takes, so no two workers are ever
given the same turn.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# What is leased lies no further ahead than both together: so long may a worker not have heard
# that the upstream wants to be left alone.
CHUNK = timedelta(milliseconds=500)  # Turns leased at once.
AHEAD_MAX = timedelta(milliseconds=500)  # Until the first of them.
SHARE_MIN = 1 / 64  # Of the declared rate.
RAISE = 0.05  # Of the declared rate,
RAISE_PERIOD = timedelta(seconds=10)  # after so long without a 429.
FAILURES_MAX = 5  # In a row.
WINDOW = timedelta(seconds=60)
WINDOW_CALLS_MIN = 20  # Fewer calls have no rate.
FAILURE_RATE_MAX = 0.5
OPEN = timedelta(seconds=60)
PROBE = timedelta(seconds=60)  # A probe that has not been heard of by then was lost.
PROBE_LOOK = timedelta(seconds=2)  # How often the others ask what became of it.

# The row as it is now, whoever has just written it, and the time. What a window counted that is
# over does not count any more.
_LOOKED = """
    WITH locked AS (
        SELECT * FROM upstream WHERE name = :name FOR UPDATE
    ), timed AS (
        SELECT *, clock_timestamp() AS now FROM locked
    ), windowed AS (
        SELECT *, now >= window_at + CAST(:window AS interval) AS is_window_over FROM timed
    ), looked AS (
        SELECT *, CASE WHEN is_window_over THEN now ELSE window_at END AS window_since,
            CASE WHEN is_window_over THEN 0 ELSE window_calls END AS calls_before,
            CASE WHEN is_window_over THEN 0 ELSE window_failures END AS failures_before
        FROM windowed
    )"""


@dataclass(frozen=True)
class Lease:
    """Turns to call, the first at `first_at` and the others `spacing` seconds apart, or none.

    Times are seconds since 1970 by the database's clock, which said `now`. Without a turn,
    `wait` is when to ask again, in seconds, and `shut`, if the upstream is not to be called at
    all until then, the reason. `probe` is the name of the permit of a half-open breaker.
    """

    now: float
    first_at: float
    spacing: float
    count: int
    wait: float
    shut: str | None
    probe: datetime | None


async def add_upstream(connection: AsyncConnection, name: str) -> None:
    await connection.execute(
        text("INSERT INTO upstream (name) VALUES (:name) ON CONFLICT DO NOTHING"), {"name": name}
    )


async def lease_turns(
    connection: AsyncConnection, name: str, per_second: float, count: int, successes: int
) -> Lease | None:
    """Take up to `count` turns, no more than CHUNK has, one at least; None without such a row.

    `successes` are the calls that were answered since this worker last said so.
    """
    row = (
        await connection.execute(
            text(f"""
                {_LOOKED}, raised AS (  -- One step a lease: a time without calls is no success.
                    SELECT *, CASE WHEN now >= raised_at + CAST(:raise_period AS interval)
                             THEN least(share + :raise, 1) ELSE share END AS share_now
                    FROM looked
                ), paced AS (
                    SELECT *, share_now * CAST(:per_second AS double precision) AS rate,
                        greatest(next_at, now) AS first_at,
                        CASE WHEN blocked_until > now THEN blocked_until
                             WHEN open_until > now THEN open_until
                             WHEN probe_until > now
                             THEN least(probe_until, now + CAST(:probe_look AS interval))
                        END AS shut_until
                    FROM raised
                ), given AS (
                    SELECT *, interval '1 second' / rate AS spacing, CASE
                        WHEN shut_until IS NOT NULL THEN 0
                        WHEN first_at > now + CAST(:ahead_max AS interval) THEN 0
                        WHEN open_until IS NOT NULL THEN 1
                        ELSE greatest(least(:count, floor(
                            extract(epoch FROM CAST(:chunk AS interval)) * rate)::integer), 1)
                        END AS turns
                    FROM paced
                )
                UPDATE upstream SET
                    next_at = CASE WHEN turns > 0 THEN first_at + turns * spacing
                                   ELSE given.next_at END,
                    share = share_now,
                    raised_at = CASE WHEN share_now > given.share THEN now
                                     ELSE given.raised_at END,
                    failures = CASE WHEN :successes > 0 THEN 0 ELSE given.failures END,
                    window_at = window_since,
                    window_calls = calls_before + :successes,
                    window_failures = failures_before,
                    probe_until = CASE WHEN turns > 0 AND given.open_until IS NOT NULL
                                       THEN now + CAST(:probe AS interval)
                                       ELSE given.probe_until END
                FROM given WHERE upstream.name = given.name
                RETURNING extract(epoch FROM now)::double precision AS now,
                    extract(epoch FROM first_at)::double precision AS first_at,
                    extract(epoch FROM spacing)::double precision AS spacing, turns,
                    extract(epoch FROM coalesce(
                        shut_until, first_at - CAST(:ahead_max AS interval)) - now
                    )::double precision AS wait,
                    CASE WHEN given.blocked_until > now THEN given.blocked_reason
                         WHEN shut_until IS NOT NULL THEN given.open_reason END AS shut,
                    CASE WHEN turns > 0 THEN upstream.probe_until END AS probe
            """),
            {
                "name": name,
                "per_second": per_second,
                "count": count,
                "successes": successes,
                "chunk": CHUNK,
                "ahead_max": AHEAD_MAX,
                "window": WINDOW,
                "raise": RAISE,
                "raise_period": RAISE_PERIOD,
                "probe": PROBE,
                "probe_look": PROBE_LOOK,
            },
        )
    ).one_or_none()
    if row is None:
        return None
    return Lease(
        row.now, row.first_at, row.spacing, row.turns, max(row.wait, 0.0), row.shut, row.probe
    )


async def note_rate_limited(
    connection: AsyncConnection,
    name: str,
    *,
    began: timedelta,
    wait: timedelta,
    reason: str,
    probe: datetime | None,
) -> None:
    """A call that began so long ago was answered with 429: nobody calls for `wait`, and then half
    as often. Calls that were on their way together halve the rate once, and so do those of which
    the turns had been leased by then."""
    await connection.execute(
        text(f"""
            {_LOOKED}, judged AS (
                SELECT *, now - CAST(:began AS interval) > greatest(
                        slowed_at + CAST(:leased AS interval), blocked_until) AS is_news,
                    coalesce(probe_until = CAST(:probe AS timestamptz), false) AS is_probe,
                    now + CAST(:wait AS interval) AS until
                FROM looked
            )
            UPDATE upstream SET
                share = CASE WHEN is_news THEN greatest(judged.share / 2, :share_min)
                             ELSE judged.share END,
                slowed_at = CASE WHEN is_news THEN now ELSE judged.slowed_at END,
                raised_at = greatest(judged.blocked_until, until),
                blocked_until = greatest(judged.blocked_until, until),
                blocked_reason = CASE WHEN until > judged.blocked_until THEN :reason
                                      ELSE judged.blocked_reason END,
                failures = 0,  -- It answers.
                open_until = CASE WHEN NOT is_probe THEN judged.open_until END,
                open_reason = CASE WHEN NOT is_probe THEN judged.open_reason END,
                probe_until = CASE WHEN NOT is_probe THEN judged.probe_until END
            FROM judged WHERE upstream.name = judged.name
        """),
        {
            "name": name,
            "window": WINDOW,
            "began": began,
            "leased": CHUNK + AHEAD_MAX,
            "wait": wait,
            "reason": reason,
            "probe": probe,
            "share_min": SHARE_MIN,
        },
    )


async def note_failure(
    connection: AsyncConnection, name: str, *, successes: int, reason: str, probe: datetime | None
) -> bool:
    """A call failed, after so many that were answered. True when this opens the breaker; an open
    one is opened again by its probe alone."""
    opens = await connection.scalar(
        text(f"""
            {_LOOKED}, counted AS (
                SELECT *, CASE WHEN :successes > 0 THEN 1 ELSE failures + 1 END AS in_a_row,
                    calls_before + :successes + 1 AS calls, failures_before + 1 AS failed,
                    coalesce(probe_until = CAST(:probe AS timestamptz), false) AS is_probe
                FROM looked
            ), judged AS (
                SELECT *, CASE
                    WHEN open_until IS NOT NULL THEN is_probe
                    ELSE in_a_row >= :failures_max OR (
                        calls >= :window_calls_min
                        -- Without the type it is taken for an integer, as `calls` is.
                        AND failed >= CAST(:failure_rate_max AS double precision) * calls)
                    END AS opens
                FROM counted
            )
            UPDATE upstream SET
                failures = in_a_row, window_at = window_since, window_calls = calls,
                window_failures = failed,
                open_until = CASE WHEN opens THEN now + CAST(:open AS interval)
                                  ELSE judged.open_until END,
                open_reason = CASE
                    WHEN NOT opens THEN judged.open_reason
                    WHEN in_a_row > 1 THEN in_a_row || ' failures in a row, the last: ' || :reason
                    ELSE failed || ' of ' || calls || ' calls failed, the last: ' || :reason END,
                probe_until = CASE WHEN NOT is_probe THEN judged.probe_until END
            FROM judged WHERE upstream.name = judged.name
            RETURNING opens
        """),
        {
            "name": name,
            "window": WINDOW,
            "successes": successes,
            "reason": reason,
            "probe": probe,
            "open": OPEN,
            "failures_max": FAILURES_MAX,
            "window_calls_min": WINDOW_CALLS_MIN,
            "failure_rate_max": FAILURE_RATE_MAX,
        },
    )
    return bool(opens)


async def note_probe_answered(connection: AsyncConnection, name: str, probe: datetime) -> None:
    """Close the breaker, if this is still its probe."""
    await connection.execute(
        text("""
            UPDATE upstream SET open_until = NULL, open_reason = NULL, probe_until = NULL,
                failures = 0, window_at = clock_timestamp(), window_calls = 0, window_failures = 0
            WHERE name = :name AND probe_until = CAST(:probe AS timestamptz)
        """),
        {"name": name, "probe": probe},
    )


async def return_probe(connection: AsyncConnection, name: str, probe: datetime) -> None:
    """Nobody knows how this probe ended: another call may be one at once."""
    await connection.execute(
        text("""
            UPDATE upstream SET probe_until = NULL
            WHERE name = :name AND probe_until = CAST(:probe AS timestamptz)
        """),
        {"name": name, "probe": probe},
    )
