"""`aoai-gateway rerun`: a captured session made once more, and what has become different."""
