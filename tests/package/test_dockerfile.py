"""The Dockerfile as far as it can be read: nothing builds it here."""

from __future__ import annotations

import re

from tests.paths import ROOT

TEXT = (ROOT / "Dockerfile").read_text()


def test_both_images_run_as_a_user_and_hold_what_is_pinned() -> None:
    stages = re.split(r"^FROM ", TEXT, flags=re.M)[2:]
    assert [stage.splitlines()[0].split(" AS ")[1] for stage in stages] == ["cpu", "gpu"]
    assert all("\nUSER 1000\n" in stage for stage in stages)
    (vllm,) = re.findall(r'"vllm==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert stages[1].startswith(f"vllm/vllm-openai:v{vllm} ")


def test_what_is_copied_is_there_and_not_ignored() -> None:
    copied = [name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", TEXT, flags=re.M) for name in line.split()]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert copied
    assert all((ROOT / name).exists() and name not in ignored for name in copied)
    (readme,) = re.findall(r'^readme = "(.*)"', (ROOT / "pyproject.toml").read_text(), flags=re.M)
    assert readme not in ignored
    assert not {"LICENSE", "pyproject.toml", "src", "router", "allocation", "deployments"} & set(ignored)
