"""The command `apportion`. Modules of the commands import what is heavy only when they run."""

from __future__ import annotations

from apportion.deployments.cli.application import app
from apportion.deployments.cli.assign import assign
from apportion.deployments.cli.bulk import bulk
from apportion.deployments.cli.calibrate import calibrate
from apportion.deployments.cli.check import check
from apportion.deployments.cli.collect import collect
from apportion.deployments.cli.dashboards import dashboards
from apportion.deployments.cli.evaluate import evaluate
from apportion.deployments.cli.init import init
from apportion.deployments.cli.key import key
from apportion.deployments.cli.outcomes import outcomes
from apportion.deployments.cli.plan import plan
from apportion.deployments.cli.predict import predict
from apportion.deployments.cli.profile import profile
from apportion.deployments.cli.reference import reference
from apportion.deployments.cli.render import render
from apportion.deployments.cli.serve import serve
from apportion.deployments.cli.simulate import simulate
from apportion.deployments.cli.train import train

app.command()(collect)
app.command()(outcomes)
app.command()(train)
app.command()(calibrate)
app.command()(predict)
app.command()(assign)
app.command()(evaluate)
app.command()(init)
app.command()(check)
app.command()(serve)
app.add_typer(bulk, name="bulk")
app.command()(profile)
app.command()(plan)
app.command()(render)
app.command()(simulate)
app.command()(key)
app.command()(dashboards)
app.command(hidden=True)(reference)

__all__ = ["app"]
