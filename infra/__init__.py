"""Starts what the services need: PostgreSQL, Kafka and the services' own processes, each under one
supervisor.
"""
