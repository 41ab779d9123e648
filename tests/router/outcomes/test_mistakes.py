"""Mistakes in tables of outcomes and files of prompts, each with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from apportion.router import hub
from apportion.router.errors import InvalidRequestError, OutcomesTableError
from apportion.router.outcomes import read_outcomes, write_outcomes
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.encoder import Encoder
from apportion.router.prediction.prompts import read_requests
from apportion.router.prediction.training import check_fresh, train_predictor
from tests.samples import make_outcomes

HEADER = "query_id,prompt,model,score,output_tokens\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEADER.replace(",", ";") + "q;p;m;1;2\n", "long.csv, line 1: columns are parted by ';'; save it with commas"),
        (HEADER.replace(",", "\t"), r"columns are parted by '\\t'"),
        (HEADER + "q,p,m,1,1e300\n", "long.csv, line 2, column 'output_tokens' is 1e\\+300: it must be between 0 and"),
        (HEADER + '"q",p,m,1,2\n"r","a\nb",m,7,2\n', "long.csv, line 3, column 'score' is 7"),
    ],
)
def test_a_csv_is_told_what_is_wrong_and_where(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_text(text)
    with pytest.raises(OutcomesTableError, match=says):
        read_outcomes(tmp_path / "long.csv")


def test_prices_are_told_by_their_line(tmp_path: Path) -> None:
    write_outcomes(make_outcomes(20, seed=0), tmp_path)
    prices = (tmp_path / "models.csv").read_text()
    line = prices.splitlines()[1]
    (tmp_path / "models.csv").write_text(prices + line + "\n")
    with pytest.raises(OutcomesTableError, match=r"models.csv, line 5, column 'model': 'small' stands twice; keep one"):
        read_outcomes(tmp_path)
    (tmp_path / "models.csv").write_text(prices.replace(line, "small,inf,1,"))
    with pytest.raises(OutcomesTableError, match=r"models.csv, line 2, column 'input_price_per_1M' is inf"):
        read_outcomes(tmp_path)


def test_what_is_not_read_is_not_taken_for_a_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text('[{"prompt": "hello"}]')
    with pytest.raises(InvalidRequestError, match=r"prompts.json: .json is not read; give a text file or .jsonl, .csv"):
        read_requests(tmp_path / "prompts.json")


def test_an_artefact_is_not_calibrated_on_what_it_was_made_of(outcomes: OutcomesTable, encoder: Encoder) -> None:
    table = outcomes.subset(range(120))
    predictor = train_predictor(table, encoder)
    with pytest.raises(OutcomesTableError, match="the artefact was made of these outcomes"):
        check_fresh(predictor, table)
    with pytest.raises(OutcomesTableError, match="rows: 8 to calibrate with, 10 are needed"):
        check_fresh(predictor, outcomes.subset(range(200, 208)))
    with pytest.raises(OutcomesTableError, match=r"each needs 10, .*: add rows, to 100 or more"):
        train_predictor(table.subset(range(3)), encoder)


def test_a_hub_whose_name_leads_nowhere_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://nowhere.invalid")
    hub.out_of_reach.cache_clear()
    assert hub.out_of_reach()
    hub.out_of_reach.cache_clear()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert not hub.out_of_reach()
    hub.out_of_reach.cache_clear()
