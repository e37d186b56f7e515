"""Azure OpenAI's protocol, and Claude's: operations and paths, bodies, headers, errors, event streams, usage.

Everything here is sans-I/O: bytes and strings in, frozen values out. No clock, no socket, no randomness.
"""
