"""Who may do what, how much, and when: pure decisions, free of I/O, clocks and chance."""
