"""A batch from items to decisions: estimates, screening, money, slots, queue.

Knows no Ray, no HTTP and no configuration file. Its own files are the words that all its rooms speak; `scheduling`
leads through the others.
"""
