"""Offline plan: which replicas of which model run on which share of which GPU.

Knows neither Ray nor vLLM, and importing it loads neither Pyomo nor HiGHS.
"""
