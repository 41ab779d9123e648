"""The HTTP front: reads requests, asks the router, pipes answers."""
