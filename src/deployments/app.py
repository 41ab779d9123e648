"""The application under the `import_path` that configurations had before the packages were under one name."""

from apportion.deployments.app import build

__all__ = ["build"]
