"""What somebody else allows: requests and tokens a minute, seen as slots, and refusals that teach how many."""
