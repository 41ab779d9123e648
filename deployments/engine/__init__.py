"""Engine replicas: vLLM or simulated, their settings and their measurement."""
