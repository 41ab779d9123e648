import subprocess
import sys

SCRIPT = """
import gc
from apportion.deployments.wire.garbage import YOUNG, freeze, spare_what_is_loaded

spare_what_is_loaded()
assert gc.get_freeze_count() == 0  # no replica
loaded = [[] for _ in range(1_000)]
freeze()
assert gc.get_freeze_count() > 1_000 and gc.get_threshold()[0] == YOUNG
assert not any(one is loaded for one in gc.get_objects())
ring = []
ring.append(ring)
del ring
assert gc.collect() >= 1  # what is new and circular still goes
"""


def test_what_is_loaded_is_looked_at_no_more() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)
