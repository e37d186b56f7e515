"""What people look at and switch while the gateway runs: its state as JSON, a page, a terminal view."""
