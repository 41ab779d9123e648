"""A request's way from its arrival to its verdict."""
