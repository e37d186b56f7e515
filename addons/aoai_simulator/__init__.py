"""An embedded Azure OpenAI, with Claude beside it: its rate limits, its frames, faults on demand.

`server.start` runs it in the current event loop, `command.main` as a program. How a test makes it
misbehave is described in `control`. Nothing is imported here, so that the limiter and the other pure
modules can be used without the server.
"""
