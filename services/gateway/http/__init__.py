"""The public routes: parse, transaction, answer; one file per family."""
