"""The services: gateway, annotator and cache, the chassis they share, and the command line."""
