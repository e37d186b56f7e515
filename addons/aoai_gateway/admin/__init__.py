"""The admin interface of a running gateway: its state as JSON, a page, a terminal view, and switches."""
