"""Load on an OpenAI endpoint: arrivals, what came back of each request, statistics, and the CPU that was spent."""
