"""The optimised allocation beside uniform, proportional and greedy ones of the same GPUs, on held-out requests."""
