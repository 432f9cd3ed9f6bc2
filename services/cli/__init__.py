"""The `annobus` command."""
