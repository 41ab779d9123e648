"""Runs bulk jobs: a headless ingress, whose requests are lines of files and whose answers go into files."""
