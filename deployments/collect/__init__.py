"""Recording outcomes: every model is asked every prompt, its answers are judged, and all of it is journaled."""
