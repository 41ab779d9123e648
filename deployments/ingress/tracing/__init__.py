"""What becomes of single requests, as spans: the ingress knows all of it, so nobody else makes any."""
