"""What is done with a call, decided without doing it."""
