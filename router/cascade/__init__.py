"""Cascades: a cheap model answers first, and what its answer looks like says whether a dearer one is asked.

posterior -> pair -> policies    how sure a first answer is, what the second model would then make of the request, and
                                 what answering in two stages is worth to a batch
gate                             which pairs of models held-out outcomes prove to be worth it
"""
