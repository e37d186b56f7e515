"""Settings of the property tests."""

from hypothesis import settings

# A deadline per example measures the machine's other work, not ours.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
