"""What the system does in a second, measured on the machine that asks."""
