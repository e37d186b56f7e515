"""The gateway's identity towards its endpoints, and the identification of clients."""
