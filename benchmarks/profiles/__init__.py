"""Computed profiles beside the installed vLLM's own arithmetic, and beside published speeds."""
