"""Files and batches at the HTTP front: what is asked is checked and written down; who works on it is elsewhere."""
