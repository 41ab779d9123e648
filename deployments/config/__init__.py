"""The service's configuration as it stands in a file: fields, units, limits, and what must agree."""
