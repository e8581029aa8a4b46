"""harness data fetch: public data sets, by name or by address."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.output import claim_stdout, print_json, show
from harness.cli.study import Json
from harness.output.terminal import note


def fetch(
    what: Annotated[str, typer.Argument(metavar="NAME|URL", help="A MedMNIST set, or the address of a file.")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Where to put it; data, or data/medmnist.")
    ] = None,
    checksum: Annotated[
        str, typer.Option("--checksum", metavar="sha256:HEX", help="What the file must be; md5, sha1 and sha512 too.")
    ] = "",
    json: Json = False,
) -> None:
    """Download a data set; zip and tar archives are unpacked.

    A download that was cut off goes on where it stopped. MedMNIST sets by name, with the checksums that the project
    publishes: pathmnist, chestmnist, dermamnist, octmnist, pneumoniamnist, retinamnist, breastmnist, bloodmnist,
    tissuemnist, organamnist, organcmnist, organsmnist.
    """
    claim_stdout()
    from harness.data.download import MEDMNIST, find_source
    from harness.data.download import fetch as fetch_source
    from harness.errors import RequestError
    from harness.output.progress import step_progress
    from harness.store.home import open_home

    source = find_source(what, checksum)
    folder = to or Path("data/medmnist" if what in MEDMNIST else "data")  # where the shipped studies look
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"--to {folder}: this is a file; name a folder.")
    with step_progress() as progress:
        done = fetch_source(source, folder, open_home(), progress)
    if json:
        print_json({"path": done.path, "new": done.new, "bytes": done.bytes, "sha256": done.sha256 or None})
        return
    show(f"{done.path}{'' if done.new else ' (it was there already)'}")
    if done.sha256 and not source.checksum:
        note(f"nothing was known to check it by. Next time: --checksum sha256:{done.sha256}")
