"""A job's rows on their way to their models and back."""

from __future__ import annotations

from dataclasses import dataclass, field

from apportion.deployments.ingress.dispatch import Dispatcher
from apportion.deployments.jobs.cascading import Cascading
from apportion.deployments.jobs.desk import RouterDesk
from apportion.deployments.jobs.expectations import Expected
from apportion.deployments.jobs.input import InputFile
from apportion.deployments.jobs.keeping import Keeper
from apportion.deployments.jobs.planning import Planner
from apportion.deployments.jobs.reading import RowReader, for_model
from apportion.deployments.jobs.row_client import Answered, answered
from apportion.router.budget import from_nano
from apportion.router.errors import ApportionError
from apportion.router.jobs.backlog import NOWHERE
from apportion.router.jobs.lines import Request, answered_line
from apportion.router.jobs.segments import Result
from apportion.router.unpriced import Unpriced
from apportion.router.variants import model_of


class Forecasts:
    """What is expected of rows on their way, by the names that the Router knows them by."""

    def __init__(self) -> None:
        self._of: dict[str, Unpriced] = {}

    def put(self, name: str, unpriced: Unpriced) -> None:
        self._of[name] = unpriced

    def of(self, name: str) -> Unpriced:
        return self._of[name]

    def drop(self, name: str) -> None:
        del self._of[name]


@dataclass
class Rows:
    """Asks for rows and keeps what comes of them.

    Args:
        job: its name.
        models: names.
        expected: of all rows.
        attempts: that a row has.
    """

    job: str
    models: tuple[str, ...]
    input: InputFile
    reader: RowReader
    expected: Expected
    planner: Planner
    keeper: Keeper
    dispatcher: Dispatcher
    forecasts: Forecasts
    desk: RouterDesk
    cascading: Cascading
    attempts: int
    _names: dict[int, str] = field(default_factory=dict)  # that rows were answered by
    _seconds: dict[int, str | None] = field(default_factory=dict)  # of their cascades, when they were sent

    def slots(self, column: int) -> int:
        return self.desk.slots(model_of(self.models[column]))

    async def ask(self, row: int, column: int) -> Answered:
        request = self.input.request(row)
        try:
            parsed = self.reader.read(request)
        except ApportionError as error:
            return refusal(error)
        second = self._seconds[row] = self.cascading.second_of(row, column)
        parsed.item = for_model(parsed.item, self.models[column], second)
        name = self._names[row] = parsed.item.id
        self.forecasts.put(name, self.expected.of_row(self.models, row))
        try:
            return await answered(self.dispatcher, parsed, request.url)
        finally:
            self.forecasts.drop(name)

    async def keep(self, row: int, column: int, answered: Answered) -> bool:
        name, second = self._names.pop(row, ""), self._seconds.pop(row, None)
        if answered.model is not None:
            self.planner.ended(row, column, from_nano(answered.cost_nano), answered.tokens.output)
        result = result_of(self.job, self.input.request(row), answered, name)
        result = self.cascading.staged(result, answered, second)
        await self.keeper.keep(result)
        return self.cascading.kept(result)

    def has_answer(self, row: int) -> bool:
        return row in self.cascading.held

    def elsewhere(self, row: int, column: int) -> int:
        self.planner.may[row, column] = False
        return NOWHERE if self.has_answer(row) else self.planner.cheapest(row)


def result_of(job: str, request: Request, answered: Answered, name: str = "") -> Result:
    """What is kept of a row.

    Args:
        name: that it was answered by.
    """
    line = answered_line(job, request, answered.status, name, answered.body)
    ok = answered.error is None and answered.status < 400
    return Result(request.row, ok, line, answered.model, answered.cost_nano, answered.tokens)


def refusal(error: ApportionError) -> Answered:
    """What becomes of a row that nobody was asked for."""
    return Answered(error.status, error.envelope(), None, 0, error, False)
