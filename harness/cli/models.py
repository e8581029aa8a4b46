"""harness models: which backbones there are."""

from typing import Annotated

import typer

from harness.cli.output import claim_stdout, note, print_json

app = typer.Typer(help="Backbones from timm and torchvision.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    # A callback keeps `list` a word of its own while it is the only command here.
    pass


@app.command("list")
def list_(
    filter_: Annotated[
        str | None, typer.Option("--filter", metavar="TEXT", help="Only names that contain this.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Every name that model.backbone takes, one a line."""
    stream = claim_stdout()
    from harness.errors import RequestError
    from harness.models.backbones import list_backbones

    names = list_backbones(filter_)
    if json:
        print_json(names)
        return
    if not names:
        raise RequestError(f"no backbone's name contains {filter_!r}. `harness models list` shows all of them.")
    stream.write("".join(f"{name}\n" for name in names))
    note(f"{len(names)} backbones. In a study file: model.backbone: {names[0]}")
