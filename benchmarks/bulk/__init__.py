"""Whole jobs: what one plan is worth and takes, and whether simulated days keep deadlines."""
