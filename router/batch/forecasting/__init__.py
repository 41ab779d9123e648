"""What is estimated of requests: by turns at the predictor, or from what is known without it."""
