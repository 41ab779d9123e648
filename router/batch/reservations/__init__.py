"""What is free and who holds it: replicas and their slots, with the money, and where conversations were last."""
