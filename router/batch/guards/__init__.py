"""What may fail, be slow, or be asked too often: breakers, calls in time, rates, and what was answered last."""
