"""Rewrites of a built network: the same function, in another form."""
