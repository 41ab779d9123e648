"""End to end: graded prompts over HTTP against the running service, every arm at matched spend."""
