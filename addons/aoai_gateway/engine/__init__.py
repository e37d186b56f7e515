"""The decisions about a call, without I/O."""
