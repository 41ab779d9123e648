"""The HTTP routes by theme, for the Ingress to inherit."""
