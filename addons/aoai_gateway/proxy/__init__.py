"""The layers inside mitmproxy: they carry the engine's effects out on real connections.

Theory of operation. mitmproxy's layers are generators of commands without I/O. For every client
connection the addon puts a :class:`~aoai_gateway.proxy.layer.GatewayLayer` in the place of mitmproxy's
HTTP layer; for every request in it a :class:`~aoai_gateway.proxy.stream.GatewayStream` collects the
request, drives the engine, and carries its effects out in mitmproxy's commands: open a connection, send,
wait, deliver. The flow that the UIs show keeps the client's request; what goes over the wire is a request
of its own, with the backend's deployment and credential.
"""
