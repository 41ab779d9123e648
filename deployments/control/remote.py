"""Predictor and Solver as the batch room calls them: functions over their deployment handles."""

from __future__ import annotations

from collections.abc import Sequence

from ray.serve.handle import DeploymentHandle

from apportion.router.assignment import Assignment, BatchProblem, Strategy
from apportion.router.batch.forecasting.forecaster import Predict
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.planning.rungs import Solve
from apportion.router.estimates import Estimates
from apportion.router.prices import ModelPrice


def predict_by(predictor: DeploymentHandle, models: Sequence[str]) -> Predict:
    """The Predictor's answer, which has a column for each of the models, in their order.

    They go by name: while a deploy changes the models, the Predictor of the moment may have others.
    """

    async def predict(items: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates:
        estimates: Estimates = await predictor.predict.remote(list(items), dict(zip(models, prices, strict=True)))
        return estimates

    return predict


def solve_by(solver: DeploymentHandle) -> Solve:
    """The Solver's answer."""

    async def solve(problem: BatchProblem, strategy: Strategy) -> Assignment:
        assignment: Assignment = await solver.solve.remote(problem, strategy)
        return assignment

    return solve
