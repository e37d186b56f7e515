"""What one process holds: the gateway, and what keeps it going."""
