"""What can go wrong in the cache.

PermanentError
└── NamespaceUnknown        a command names a namespace that does not exist
"""

from services.chassis.errors import PermanentError


class NamespaceUnknown(PermanentError):
    """No such namespace."""

    kind = "namespace-unknown"
