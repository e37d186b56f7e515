"""Other programs' records of calls, read as usage records as far as they tell."""
