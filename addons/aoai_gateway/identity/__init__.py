"""Who the gateway is to its endpoints, and how it knows the clients that come with tokens."""
