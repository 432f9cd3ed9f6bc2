"""Alembic's entry into the cache's schema."""

from services.chassis.migrations import run_migrations

run_migrations("cache")
