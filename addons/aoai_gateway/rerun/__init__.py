"""`aoai-gateway rerun`: a captured session made once more, and the differences."""
