"""Throughput of the running service: graded prompts over HTTP, beside the same requests straight to the engines."""
