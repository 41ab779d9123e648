"""Fitted cases of outcomes tables: every experiment on the same splits, each estimator fitted once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from apportion.router.errors import ConfigurationError
from apportion.router.evaluation.case import Case, fit_case, usable
from apportion.router.outcomes import read_outcomes
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.encoders import load_encoder
from apportion.router.prediction.estimators import estimator as recipe_of
from apportion.router.prediction.features import Features
from apportion.router.prediction.preparation import complete_tokens, encode_in_steps
from benchmarks.experiments.cache import Cache, code_hash, files_hash
from benchmarks.paths import ROOT

ENCODING_CODE = (
    "router/prediction/encoder.py", "router/prediction/encoder_files.py", "router/prediction/pooling.py",
    "router/prediction/fused_bert.py", "router/prediction/static_encoder.py", "router/prediction/encoders.py",
    "router/prediction/text_tokenizer.py", "router/prediction/features.py", "router/prediction/text_features.py",
    "router/prediction/request_features.py", "router/prediction/preparation.py", "router/outcomes/table.py",
    "router/outcomes/files.py", "router/outcomes/columns.py", "router/outcomes/requests.py", "router/outcomes/long.py",
    "router/chat.py", "router/texts.py", "router/traits.py",
)  # fmt: skip

BEHIND_ESTIMATES = ("router/prices.py", "router/outcomes/table.py", "router/evaluation/case.py")
BESIDE_ESTIMATES = ("predictor.py", "prompts.py", "tokens.py", "training.py")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Dataset:
    """One outcomes table on disk, with the encoder of its prompts; small, so that it travels to workers.

    models: those that are left of the table, all when empty.
    """

    folder: Path
    encoder: str
    cache: Cache
    models: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.folder.name

    def prepared(self, progress: Progress | None = None) -> tuple[OutcomesTable, Features]:
        """The whole rows and models of the table, and the features of its prompts."""

        def make() -> tuple[OutcomesTable, Features]:
            encoder = load_encoder(self.encoder, device="cpu")
            table = complete_tokens(usable(read_outcomes(self.folder, group="query_id")), encoder)
            return table, encode_in_steps(table, encoder, progress)

        table, features = self.cache.get(self._key(*ENCODING_CODE), make)[1]
        return table.select_models(list(self.models)) if self.models else table, features

    def case(self, estimator: str, seed: int) -> Case:
        """The fitted case."""
        recipe = recipe_of(estimator)

        def make() -> Case:
            table, features = self.prepared()
            return fit_case(table, features, estimator, recipe, seed)

        fitted: Case = self.cache.get((self._key(*estimating_code()), recipe, seed, *self.models), make)[1]
        return fitted

    def case_key(self) -> tuple[str, ...]:
        """What a case depends on, but for its estimator and seed."""
        return *self._key("router/prediction", *BEHIND_ESTIMATES), *self.models

    def _key(self, *code: str) -> tuple[str, ...]:
        return files_hash(self.folder), self.encoder, code_hash(*code)


def estimating_code() -> list[str]:
    """What estimates depend on: all of `router/prediction` but what no estimate passes through."""
    files = sorted((ROOT / "router/prediction").glob("*.py"))
    names = [f"router/prediction/{file.name}" for file in files if file.name not in BESIDE_ESTIMATES]
    return [*names, *BEHIND_ESTIMATES]


def find_datasets(data: Path, encoder: str, cache: Cache) -> list[Dataset]:
    """The outcomes tables in a folder, or the one that the folder is.

    Raises ConfigurationError when there is none.
    """
    folders = [data, *sorted(data.iterdir())] if data.is_dir() else []
    found = [Dataset(folder, encoder, cache) for folder in folders if (folder / "queries.parquet").exists()]
    if not found:
        raise ConfigurationError(
            f"no outcomes table in {data}: give --data a folder with queries.parquet, scores.parquet and "
            "costs.parquet, or a folder of such folders (docs/prediction.md)"
        )
    return found
