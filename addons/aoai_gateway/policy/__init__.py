"""Who may do what, how much, and when."""
