"""The console: one page, and the events that it shows."""
