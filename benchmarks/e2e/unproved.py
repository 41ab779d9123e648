"""The zoo's artefact with its likeliest cascade, proved or not: so that serving one can be measured on real engines.

The predictor has seen some of the rows that the pair is learned from, so it is a little too sure of them. What is
measured with it says what cascades cost a service; whether they gain is what the gate, and `python -m benchmarks
cascades`, say.
"""

from __future__ import annotations

from pathlib import Path

from apportion.deployments.config.models import resolve_source
from apportion.router.cascade.gate import HeldOut, Trial, fit_gate
from apportion.router.cascade.pair import Pair
from apportion.router.cascade.posterior import Posterior
from apportion.router.outcomes.files import read_outcomes
from apportion.router.prediction.artefact import CascadesRecord, TrialRecord, read_artefact, write_artefact
from apportion.router.prediction.cascading import cascades_arrays, expected_costs
from apportion.router.prediction.predictor import Predictor
from benchmarks.paths import ROOT

ARTEFACT = "zoo:predictor"
OUTCOMES = ROOT / "benchmarks/zoo/recorded"


def write(out: Path) -> Trial:
    """Writes the artefact; what held-out rows would have said of its pair.

    Raises:
        RuntimeError: the recorded outcomes have no signals to learn from.
    """
    source = Path(resolve_source(ARTEFACT))
    predictor = Predictor.load(source, device="cpu")
    table = read_outcomes(OUTCOMES).select_models(list(predictor.models))
    if table.signals is None:
        raise RuntimeError(f"{OUTCOMES}: there are no signals; record them first")
    prediction = predictor.predict([str(prompt) for prompt in table.queries["prompt"]])
    cost_usd, _ = expected_costs(prediction, table, table)
    rows = HeldOut(table.models, prediction.success, cost_usd, table.scores, table.cost_usd, table.signals)
    trial = fit_gate(rows).trials[0]
    first, second = (rows.models.index(name) for name in (trial.first, trial.second))
    posterior = Posterior.fit(rows.success[:, first], rows.signals[:, first], rows.scores[:, first])
    pair = Pair.fit(trial.first, trial.second, posterior, rows.success[:, second], rows.scores[:, [first, second]])
    description, arrays = read_artefact(source)
    told = TrialRecord(
        first=trial.first,
        second=trial.second,
        gain=trial.gain,
        at_least=trial.at_least,
        taken=trial.taken,
        offered=True,
    )
    record = CascadesRecord(closed=None, trials=[told])
    write_artefact(out, description.model_copy(update={"cascades": record}), arrays | cascades_arrays([pair]))
    return trial
