"""`apportion key`."""

from __future__ import annotations

from typing import Annotated

import typer

from apportion.deployments.cli.application import console


def key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the key in limits and logs.")],
) -> None:
    """Make an API key for a user, and the entry for the file that `keys.file` names.

    The key is shown once and kept nowhere; the file holds its hash.
    """
    from apportion.deployments.keys.keyring import new_key

    secret, digest = new_key()
    console.print(f"For the user, shown only now:\n\n{secret}\n\nFor the file:\n", highlight=False, soft_wrap=True)
    console.print(f"- name: {name}\n  sha256: {digest}", highlight=False, soft_wrap=True)
