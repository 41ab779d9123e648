"""One batch's plan: who may answer, who can pay, and who answers whom."""
