"""Apportion: a batch-level router for language models. The packages stand at the top of the project."""
