"""What users ask for: commands in, reads and live progress out."""
