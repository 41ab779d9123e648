"""The embedded zoo, installed with the package: five small models, and the predictor and the profiles of four of them.

Those four are served unless a configuration says otherwise; the fifth, crane, can think, and is there for variants. A
configuration names a part of it by `zoo:`: `source: zoo:wren` for a model, `artefact: zoo:predictor`. What trains,
grades and documents the zoo is in `benchmarks/zoo`.
"""

from __future__ import annotations

from pathlib import Path

PREFIX = "zoo:"
FOLDER = Path(__file__).resolve().parent
MODELS = FOLDER / "models"
PREDICTOR = FOLDER / "predictor"
SERVE_CONFIG = FOLDER / "serve_config.yaml"
PROFILES = FOLDER / "profiles.json"
# Configurations named folders of the checkout before the zoo was installed with the package.
IN_THE_CHECKOUT = ("benchmarks/zoo/models/", "benchmarks/zoo/")


def model_names() -> list[str]:
    """Names of the models, in alphabetical order."""
    return sorted(file.parent.name for file in MODELS.glob("*/config.json"))


def folder_of(source: str) -> Path:
    """The installed folder of `zoo:NAME`.

    Args:
        source: `zoo:` and a model's name, or `zoo:predictor`.

    Raises:
        ValueError: the zoo holds nothing of that name.
    """
    name = source.removeprefix(PREFIX)
    folders = {"predictor": PREDICTOR} | {model: MODELS / model for model in model_names()}
    if name not in folders:
        raise ValueError(f"the zoo holds no {name!r}; choose one of {', '.join(PREFIX + known for known in folders)}")
    return folders[name]


def by_prefix(source: str) -> str:
    """A source with the folder of the checkout that it may start with replaced by `zoo:`."""
    for folder in IN_THE_CHECKOUT:
        if source.startswith(folder):
            return PREFIX + source.removeprefix(folder)
    return source
