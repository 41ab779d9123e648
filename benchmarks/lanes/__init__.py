"""Interactive requests beside a bulk job: what they notice of it, and how fast it goes."""
