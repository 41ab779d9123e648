"""What the garbage collector looks at in a replica: not at all that was loaded before its first request.

That is some hundred thousand objects of Ray, Serve and the libraries. Each full collection took a tenth of a second to
go through them, in which the process does nothing else, and a sixth of the Router's time at full load.
"""

from __future__ import annotations

import gc

from ray import serve
from ray.serve.exceptions import RayServeException

YOUNG = 10_000  # objects that are made between two looks at these; a request makes some hundred


def spare_what_is_loaded() -> None:
    """Leaves alone what there is by now; each deployment that serves requests calls it when a replica has started.

    Outside of a replica nothing changes: there it is the program's own matter.
    """
    try:
        serve.get_replica_context()
    except RayServeException:
        return
    freeze()


def freeze() -> None:
    """From now on nothing that there is already is looked at, and what is new is looked at more rarely."""
    gc.collect()
    gc.freeze()
    _, older, oldest = gc.get_threshold()
    gc.set_threshold(YOUNG, older, oldest)
