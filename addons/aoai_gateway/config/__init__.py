"""What YAML may say: models, the loader with its file:line messages, PowerProxy's vocabulary, reload.

The package is the innermost one: it imports nothing else of the gateway.
"""
