"""harness study schema, harness completion: what editors and shells read."""

from typing import Annotated, Literal

import typer

from harness.cli.output import claim_stdout, print_json


def schema() -> None:
    """The JSON schema of a study file: an editor that knows it completes keys and marks mistakes.

    Write it to a file and name that in the first line of a study file, as the example shows.
    """
    claim_stdout()
    from harness.config.reference import study_schema

    print_json(study_schema())


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """What a shell reads to complete commands, options, studies, bundles, backbones and keys with the tab key.

    New shells complete once it lies where they look. zsh needs fpath+=~/.zfunc in front of compinit in ~/.zshrc.
    """
    stream = claim_stdout()
    from harness.cli.complete import script

    stream.write(script(shell))
