"""A batch from items to decisions: estimates, screening, money, slots, queue.

Knows no Ray, no HTTP and no configuration file.
"""
