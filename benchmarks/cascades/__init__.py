"""What cascades gain over routing at the same spend, by how well a verifier can tell right answers from wrong ones."""
