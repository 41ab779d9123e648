"""A Ray driver of its own: builds the zoo's application in a worker whose working directory is the folder given.

Prints what the worker sees beside it and the name of the application's deployment, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ray


def built() -> tuple[list[str], str]:
    from apportion.deployments import zoo
    from apportion.deployments.app import build
    from apportion.deployments.config.reader import read_config

    document = read_config(zoo.SERVE_CONFIG).document
    app = build(document["applications"][0]["args"])
    return sorted(entry.name for entry in Path().iterdir()), app._bound_deployment.name


if __name__ == "__main__":
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"working_dir": sys.argv[1]},
    )
    print(json.dumps(ray.get(ray.remote(built).remote())))
