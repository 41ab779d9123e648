"""Experiments on recorded outcomes: what routing buys, where it does not pay, how fast and how well calibrated."""
