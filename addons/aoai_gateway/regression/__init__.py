"""A captured session sent through the gateway once more, and what has become different: `aoai-gateway replay`."""
