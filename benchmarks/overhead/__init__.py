"""What routing costs a request: CPU and latency beside Ray Serve's own passthrough, with simulated engines."""
