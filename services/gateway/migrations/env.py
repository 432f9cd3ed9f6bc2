"""Alembic's entry into the gateway's schema."""

from services.chassis.migrations import run_migrations

run_migrations("gateway")
