"""`apportion collect`: every model asked every prompt, its answers judged, the outcomes table written."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apportion.deployments.cli.application import JsonOption, console, errors, warn, writable_file, write_json
from apportion.deployments.cli.models import ConfigOption
from apportion.router.errors import InvalidRequestError

if TYPE_CHECKING:
    from apportion.deployments.collect.collector import Collector, Plan
    from apportion.deployments.collect.journal import Journal
    from apportion.router.prices import ModelPrice

INCOMPLETE = 1
"""Exit code where something is left to ask."""


def collect(
    prompts: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="prompts, one a line, or .jsonl with `prompt` or `messages` (or lines of OpenAI's Batch API), and "
            "where known `query_id`, `task`, `expected` and sampling parameters",
        ),
    ],
    judge: Annotated[
        str,
        typer.Option(
            help="what scores an answer: exact (it is the line's `expected`), regex (`expected` is a pattern), "
            "regex:PATTERN (found; with a group: its last match is `expected`), module:function (called with answer "
            "and row) or command:COMMAND (reads JSON, prints a number or an object with `score`)"
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            callback=writable_file,
            help="outcomes table, .jsonl, .parquet or .csv; its journal stands beside it",
        ),
    ],
    config: ConfigOption = None,
    url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint, up to /v1 [default: where --config serves]")
    ] = None,
    models: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="models to ask [default: all of --config]")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=IN,OUT[,CACHED]", help="USD per million tokens of a model, instead of --config's; repeatable"
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="answers to each prompt; the score is their mean")] = 1,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="limit of answers whose line sets none")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="where the line sets none")] = None,
    completions: Annotated[
        bool,
        typer.Option(
            "--completions",
            help="send prompts that are texts to /completions; so it is done anyway for models that --config says to "
            "answer no chats (`capabilities.chat`)",
        ),
    ] = False,
    signals: Annotated[
        bool,
        typer.Option(
            "--signals",
            help="ask for log-probabilities too, and record how sure the models were; an endpoint that knows none "
            "may refuse that",
        ),
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="requests at once")] = 8,
    retries: Annotated[int, typer.Option(min=0, help="further attempts after what is temporary")] = 5,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="of one attempt, seconds")] = 300.0,
    judge_timeout_s: Annotated[float, typer.Option(min=0.1, help="of a judge's command for one answer")] = 60.0,
    budget_usd: Annotated[
        float | None, typer.Option(min=0, help="never spend more, earlier runs into the same --out included")
    ] = None,
    retry_failures: Annotated[
        bool, typer.Option("--retry-failures", help="ask again where an earlier run recorded a failure")
    ] = False,
    key_variable: Annotated[
        str, typer.Option(metavar="NAME", help="environment variable that holds the API key, if one is needed")
    ] = "OPENAI_API_KEY",
    json_file: JsonOption = None,
) -> None:
    """Ask every model every prompt, judge the answers, and write the outcomes table that `train` reads.

    Every answer is on the disk before the next one is asked for: run the same command again after any interruption, and
    it goes on. What is temporary (429, 5xx, timeouts) is tried again, as the endpoint's Retry-After says; what a model
    cannot answer is recorded as a failure, score 0, with its reason. Exits with 1 where something is left to ask.

    Example: `apportion collect --config serve_config.yaml --prompts prompts.jsonl --judge exact --out outcomes.jsonl`
    """
    from apportion.deployments.collect.collector import Plan
    from apportion.deployments.collect.journal import open_journal
    from apportion.deployments.collect.judges import judge_of
    from apportion.deployments.collect.questions import read_questions
    from apportion.deployments.collect.table import check_target, rows_of, write_rows

    check_target(out)
    base, names, prices, chatless = _fleet(config, url, models, price or [])
    if samples > 1 and temperature == 0:
        raise InvalidRequestError("--samples: at --temperature 0 all answers are the same; leave one of them out")
    shared = {"max_tokens": max_tokens, "temperature": temperature}
    plan = Plan(
        questions=read_questions(prompts),
        models=names,
        prices=prices,
        judge=judge_of(judge, judge_timeout_s),
        judge_name=judge,
        parameters={name: value for name, value in shared.items() if value is not None},
        samples=samples,
        concurrency=concurrency,
        budget_usd=budget_usd,
        by_completions=names if completions else chatless,
        retry_failures=retry_failures,
        signals=signals,
    )
    with open_journal(out.with_name(out.name + ".journal")) as journal:
        journal.agree({"parameters": dict(plan.parameters)})
        plan.check(journal)
        if plan.is_cut_short():
            warn("/completions ends an answer after 16 tokens where nothing says more; give --max-tokens")
        try:
            _run(plan, journal, base, os.environ.get(key_variable), retries, timeout_s)
        except KeyboardInterrupt:
            warn("interrupted; run the same command again to go on")
            raise
        finally:
            rows = rows_of(plan, journal)
            write_rows(rows, out)
        result = _summary(plan, journal, rows, out)
    if not write_json(result, json_file):
        console.print(
            f"{out}: {result['outcomes']} outcomes, {result['failures']} of them failures, {result['left']} left to "
            f"ask; {result['spent_usd']:.4g} USD spent",
            soft_wrap=True,
        )
        for reason, count in result["reasons"].items():
            console.print(f"{count} failed with: {reason}", soft_wrap=True)
    for model in result["without_signals"]:
        warn(f"{model!r} told no log-probabilities with any answer; what was answered before is not asked for again")
    for model in result["without_answers"]:
        warn(
            f"{model!r} answered no prompt, which is more likely a mistake of the options than its own; see the reasons"
        )
    if result["left"]:
        raise typer.Exit(INCOMPLETE)


def _fleet(
    config: Path | None, url: str | None, models: str | None, given: list[str]
) -> tuple[str, list[str], dict[str, ModelPrice], frozenset[str]]:
    """Endpoint, models and prices that the options name, and models that are known to answer no chats."""
    names = [name.strip() for name in (models or "").split(",") if name.strip()]
    prices: dict[str, ModelPrice] = {}
    chatless: frozenset[str] = frozenset()
    if config is not None:
        from apportion.deployments.config.reader import read_config

        found = read_config(config)
        prices = {column.name: column.price for column in found.service.columns}
        chatless = frozenset(one.name for one in found.service.columns if not one.all_capabilities.chat)
        unknown = sorted(set(names) - set(prices))
        if unknown and url is None:
            raise InvalidRequestError(f"--models: {unknown[0]!r} is not one of {', '.join(prices)}; correct it")
        names = names or list(prices)
        if url is None:
            from apportion.deployments.cluster.launch import url_of

            url = f"{url_of(found.document)}/v1"
    if url is None or not names:
        raise InvalidRequestError("--config, --url: give a configuration, or the endpoint's URL with --models")
    if not url.startswith(("http://", "https://")):
        raise InvalidRequestError(f"--url {url!r}: give one that begins with http:// or https://")
    for entry in given:
        name, price = _price(entry)
        if name not in names:
            raise InvalidRequestError(f"--price: {name!r} is not one of {', '.join(names)}; correct it")
        prices[name] = price
    prices = {name: price for name, price in prices.items() if name in names}
    return url.rstrip("/") + "/", list(dict.fromkeys(names)), prices, chatless & set(names)


def _price(entry: str) -> tuple[str, ModelPrice]:
    from apportion.router.prices import ModelPrice

    name, _, numbers = entry.rpartition("=")
    try:
        usd = [float(number) for number in numbers.split(",")]
    except ValueError:
        usd = []
    if not name or len(usd) not in {2, 3}:
        raise InvalidRequestError(
            f"--price {entry!r}: write NAME=IN,OUT or NAME=IN,OUT,CACHED in USD per million tokens"
        )
    return name, ModelPrice(*usd)


def _run(plan: Plan, journal: Journal, base: str, key: str | None, retries: int, timeout_s: float) -> None:
    """One run, with a bar and what is spent on the error stream."""
    import httpx
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from apportion.deployments.collect.collector import Collector
    from apportion.deployments.collect.endpoint import Endpoint

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())

    async def run() -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=plan.concurrency)
        async with httpx.AsyncClient(base_url=base, headers=headers, timeout=timeout_s, limits=limits) as client:
            with Progress(*columns, console=errors) as progress:
                every = sum(1 for _ in plan.asks())
                bar = progress.add_task("", total=every)

                def tell() -> None:
                    progress.update(bar, advance=1, description=f"{journal.spent_usd:.4g} USD")

                collector: Collector = Collector(plan, journal, Endpoint(client, retries), tell)
                progress.update(bar, completed=every - len(collector.left()), description="")
                await collector.run()

    asyncio.run(run())


def _summary(plan: Plan, journal: Journal, rows: list[dict[str, Any]], out: Path) -> dict[str, Any]:
    from apportion.router.signals import SIGNALS

    reasons = Counter(row["error"] for row in rows if row["error"] is not None)
    failed = Counter(row["model"] for row in rows if row["error"] is not None)
    asked_of = Counter(row["model"] for row in rows)
    sure = {row["model"] for row in rows if row.get(SIGNALS[0]) is not None}
    asked = {(row["query_id"], row["model"]) for row in rows}
    left = sum((question.query_id, model) not in asked for question in plan.questions for model in plan.models)
    return {
        "outcomes_file": str(out),
        "outcomes": len(rows),
        "failures": reasons.total(),
        "reasons": dict(reasons.most_common(5)),
        "without_answers": [model for model in plan.models if failed[model] == asked_of[model] > 0],
        "without_signals": [
            model for model in plan.models if plan.signals and asked_of[model] > failed[model] and model not in sure
        ],
        "left": left,
        "spent_usd": journal.spent_usd,
    }
