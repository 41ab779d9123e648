"""What both ends of a connection must agree on: headers, errors, calls, the settled cost."""
