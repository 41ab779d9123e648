"""The cluster: where replicas run, how many, and a Ray of our own on one machine."""
