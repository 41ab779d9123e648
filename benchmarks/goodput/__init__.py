"""How many requests end in time, with and without routing by time: real plans, simulated engines, virtual time."""
