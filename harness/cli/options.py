"""Arguments that several commands share, each with what a shell may offer for it."""

from typing import Annotated

import typer

from harness.cli.complete import backbones, bundles, studies, study_files

Bundle = Annotated[
    str,
    typer.Argument(metavar="BUNDLE", autocompletion=bundles, help="STUDY/NAME (harness ensemble list), or a folder."),
]
Backbone = Annotated[
    str,
    typer.Argument(metavar="NAME", autocompletion=backbones, help="A backbone, as `harness models list` names it."),
]
StudyFile = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FILE", autocompletion=study_files, help="A study's name, or the path of its YAML file."
    ),
]
NewestStudy = Annotated[
    str | None,
    typer.Argument(metavar="[NAME]", autocompletion=studies, help="The study; left out: the newest completed one."),
]
