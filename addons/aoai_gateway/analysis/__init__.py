"""What usage records tell: who used what, how much quota each needs, and what another policy would do."""
