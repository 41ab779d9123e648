"""The replica of a model that somebody else runs: it holds the key and the quota, and passes bytes on."""
