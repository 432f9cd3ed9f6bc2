"""The read side: gene documents and what invalidates them."""
