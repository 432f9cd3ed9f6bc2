"""What can go wrong while the cluster is prepared, started or kept alive.

InfraError
├── ClusterError      PostgreSQL, Kafka or their state folder cannot be used as they are
└── SupervisorError   a process did not start, or died too often
"""


class InfraError(Exception):
    """A person must put something right; the message says what, in one sentence first."""


class ClusterError(InfraError):
    """PostgreSQL, Kafka or their state folder cannot be used as they are."""


class SupervisorError(InfraError):
    """A process did not start, or died too often."""
