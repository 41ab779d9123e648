"""How far what happens is from what was expected: lengths and costs, chances of a good answer, what is asked.

Knows neither batches nor predictors: numbers in, numbers out.
"""
