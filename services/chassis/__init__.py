"""Technical code that all services share; it knows nothing of genes."""
