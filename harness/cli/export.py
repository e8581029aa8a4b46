"""harness models export: one network of a bundle as an ONNX file."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Bundle
from harness.cli.output import claim_stdout, print_json, show
from harness.cli.study import Json


def export(
    bundle: Bundle,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write, such as network.onnx.")],
    member: Annotated[
        str | None, typer.Option("--member", metavar="NAME", help="Such as trial-0007, where there are several.")
    ] = None,
    fold: Annotated[
        int | None, typer.Option("--fold", metavar="N", min=0, help="Which of the member's networks, from 0.")
    ] = None,
    json: Json = False,
) -> None:
    """Write one network of a bundle as an ONNX file: uint8 pixels in, logits and embedding out.

    Normalisation is inside; classes and decoding are in its metadata. It is run by onnxruntime and compared first.
    """
    claim_stdout()
    from harness.ensemble.bundle import export_network
    from harness.predict.predict import find_bundle

    name, apart = export_network(find_bundle(bundle), out, member, fold)
    if json:
        print_json({"network": name, "file": out, "bytes": out.stat().st_size, "largest_difference": apart})
    else:
        show(f"{out}: {name}, {out.stat().st_size / 1e6:.1f} MB; onnxruntime's numbers are within {apart:.1g} of it")
