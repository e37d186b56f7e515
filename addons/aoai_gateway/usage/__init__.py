"""One record per finished call, and where the records go."""
