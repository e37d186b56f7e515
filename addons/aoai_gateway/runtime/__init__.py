"""The state of one process: the gateway, and the tasks that keep it going."""
