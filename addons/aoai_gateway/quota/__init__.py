"""Access, request limits and quotas of clients."""
