"""SQL of the gateway: one function per query, the transaction first."""
