"""What became of every request, kept for those who learn from it: segments on disk, and the table that they make."""
