"""The command `apportion`. Modules of the commands import what is heavy only when they run."""

from __future__ import annotations

from router.cli.application import app
from router.cli.assign import assign
from router.cli.calibrate import calibrate
from router.cli.evaluate import evaluate
from router.cli.key import key
from router.cli.plan import plan, replan
from router.cli.predict import predict
from router.cli.profile import profile
from router.cli.render import render
from router.cli.serve import serve
from router.cli.simulate import simulate
from router.cli.train import train

app.command()(train)
app.command()(calibrate)
app.command()(predict)
app.command()(assign)
app.command()(evaluate)
app.command()(serve)
app.command()(profile)
app.command()(plan)
app.command()(replan)
app.command()(render)
app.command()(simulate)
app.command()(key)

__all__ = ["app"]
