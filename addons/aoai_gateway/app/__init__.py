"""The composition root: it puts the parts together and starts them."""
