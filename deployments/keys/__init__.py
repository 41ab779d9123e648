"""API keys: whose a request is and what it may do."""
