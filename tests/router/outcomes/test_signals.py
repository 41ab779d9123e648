"""Signals in outcomes tables: kept by every form of file, checked with the place of what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes import OutcomesTable, read_outcomes, write_outcomes
from apportion.router.signals import SIGNALS

SURE, UNSURE = (-0.25, -1.0, -0.5, 4.0), (-2.0, -8.0, -6.0, 0.5)
ROWS = [
    {"query_id": query, "prompt": f"What is {query}?", "model": model, "score": 1.0}
    for query in ("a", "b")
    for model in ("m1", "m2")
]


def _frame(*signals: tuple[float, ...] | None) -> pd.DataFrame:
    given = pd.DataFrame([one or (np.nan,) * 4 for one in signals], columns=list(SIGNALS))
    return pd.concat([pd.DataFrame(ROWS), given], axis=1)


def _folder(where: Path, **more: Any) -> Path:
    frame = _frame(SURE, None, UNSURE, SURE)
    frame.to_csv(where / "long.csv", index=False)
    write_outcomes(read_outcomes(where / "long.csv"), where / "table")
    file = where / "table" / "signals.parquet"
    pd.read_parquet(file).assign(**more).to_parquet(file)
    return where / "table"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_form_of_file_keeps_them(tmp_path: Path, suffix: str) -> None:
    frame, file = _frame(SURE, None, UNSURE, SURE), tmp_path / f"long.{suffix}"
    if suffix == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        getattr(frame, f"to_{suffix}")(file, index=False)
    write_outcomes(read_outcomes(file), tmp_path / "table")
    table = read_outcomes(tmp_path / "table")
    expected = [[SURE, [np.nan] * 4], [UNSURE, SURE]]
    np.testing.assert_array_equal(table.signals, expected)
    np.testing.assert_array_equal(table.subset([1]).signals, expected[1:])
    np.testing.assert_array_equal(table.select_models(["m2"]).signals, [expected[0][1:], expected[1][1:]])


def test_tables_without_them_stay_as_they_were(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    known = read_outcomes(folder)
    pd.DataFrame(ROWS).to_csv(tmp_path / "plain.csv", index=False)
    plain = read_outcomes(tmp_path / "plain.csv")
    write_outcomes(plain, folder)
    again = read_outcomes(folder)
    assert plain.signals is None
    assert again.signals is None
    assert again.data_hash() == known.data_hash()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mean_logprob": 0.5}, r"row 0 .*'mean_logprob' is 0.5: it must be finite and not above 0"),
        ({"mean_margin": -0.5}, r"row 0 .*'mean_margin' is -0.5: it must be finite and not negative"),
        ({"low_logprob": -np.inf}, r"row 0 .*'low_logprob' is -inf: it must be finite"),
        ({"mean_margin": np.nan}, r"row 0 .*fill in all four"),
        ({"min_logprob": -0.125}, r"row 0 .*fill in all four with the least below"),
        ({"model": "m3"}, r"row 0 .*'model': 'm3' is not in scores.parquet; add it or drop the row"),
        ({"query_id": "c"}, r"row 0 .*'query_id': 'c' is not in queries.parquet"),
        ({"model": "m1", "query_id": "a"}, r"row 1 .*stands twice"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(OutcomesTableError, match=said):
        read_outcomes(_folder(tmp_path, **wrong))


def test_a_table_takes_no_signals_of_another_shape_or_kind(tmp_path: Path) -> None:
    plain = read_outcomes(_folder(tmp_path))
    values = (plain.queries, plain.models, plain.scores, plain.input_tokens, plain.output_tokens, plain.cost_usd)
    with pytest.raises(OutcomesTableError, match=r"signals has shape \(2, 4\), expected \(2, 2, 4\)"):
        OutcomesTable(*values, signals=np.zeros((2, 4)))
    with pytest.raises(OutcomesTableError, match=r"row 1 .*'b'.*'m2'"):
        OutcomesTable(*values, signals=np.array([[SURE, SURE], [SURE, (*SURE[:3], -1.0)]]))
