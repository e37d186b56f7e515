"""What bare mitmdump needs to stream at all: the fair opponent of the benchmark."""


def responseheaders(flow):
    """Stream event streams, as the gateway does."""
    if flow.response.headers.get("content-type", "").startswith("text/event-stream"):
        flow.response.stream = True
