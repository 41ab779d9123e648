import hashlib

import yaml
from typer.testing import CliRunner

from apportion.deployments.cli import app


def test_a_key_is_shown_once_and_its_hash_goes_into_the_file() -> None:
    result = CliRunner().invoke(app, ["key", "alice"])
    assert result.exit_code == 0, result.output
    shown, entry = result.output.split("For the file:")
    secret = next(line for line in shown.splitlines() if line.startswith("ap-"))
    assert yaml.safe_load(entry) == [{"name": "alice", "sha256": hashlib.sha256(secret.encode()).hexdigest()}]
    assert len(secret) > 40
    assert secret not in entry
