"""`aoai-gateway replay`: a captured session made once more, and what has become different."""
