import os
import subprocess
import sys

SHOW = """
import resource
from apportion.deployments.cluster.launch import set_ray_environment
hard = {hard}
if hard: resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 512), hard))
set_ray_environment()
from ray.serve._private import constants
print(constants.RAY_SERVE_HAPROXY_MAXCONN, constants.RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S)
"""


def shown(hard: int) -> list[int]:
    env = {name: value for name, value in os.environ.items() if "HAPROXY" not in name}
    command = [sys.executable, "-c", SHOW.format(hard=hard)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return [int(word) for word in run.stdout.split()]


def test_the_proxy_has_room_for_idle_clients_and_sends_them_away() -> None:
    connections, idle_s = shown(hard=0)
    assert connections > 8192
    assert idle_s <= 60


def test_the_proxy_starts_where_descriptors_are_few() -> None:
    # HAProxy takes two a connection and some tens beside; with more connections it refuses to start.
    assert shown(hard=4096)[0] * 2 + 100 < 4096
