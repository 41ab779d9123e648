"""The control plane's actors: Router, Predictor, Solver."""
