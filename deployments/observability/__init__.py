"""What is counted, how it is told, and how it is shown: metrics, their dashboard and their alerts."""
