"""A local HTTP server that answers like the upstreams, from real or clearly marked data."""
