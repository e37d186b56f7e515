"""An open-loop load generator for Azure OpenAI, or what speaks like it: ``aoai-gateway benchmark``."""
