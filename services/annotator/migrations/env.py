"""Alembic's entry into the annotator's schema."""

from services.chassis.migrations import run_migrations

run_migrations("annotator")
