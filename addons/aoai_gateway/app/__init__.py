"""The composition root: what is started, and with what in it."""
