"""The gene catalogue, the sources and the annotations."""
