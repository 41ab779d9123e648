"""Apportion's library: predict success and cost of every request on every model, and assign a batch.

Knows neither Ray nor vLLM; importing it loads neither torch nor a solver.
"""
