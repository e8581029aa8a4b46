"""Commands of models: list, show, diagram, export.

harness models: which backbones there are, and what their stages are.

harness models export: one network of a bundle as an ONNX file.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from harness.cli.help import Commands
from harness.cli.options import Backbone, Bundle, Json, families
from harness.cli.streams import claim_stdout, print_json, results, show
from harness.output.terminal import note

if TYPE_CHECKING:
    from harness.models.catalog import Row


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


app = Commands(help="Backbones from timm and torchvision.")
app.command("export", short_help="One network of a bundle as an ONNX file.")(export)

SORTS = {"name": "name", "parameters": "parameters", "embedding": "embedding", "size": "size"}


@app.command("list", short_help="Every name that model.backbone takes.")
def list_(
    filter_: Annotated[
        str | None, typer.Option("--filter", metavar="TEXT", help="Only names that contain this.")
    ] = None,
    sort: Annotated[
        Literal["name", "parameters", "embedding", "size"], typer.Option("--sort", help="Smallest first.")
    ] = "name",
    library: Annotated[
        Literal["timm", "torchvision"] | None, typer.Option("--library", help="Only of this one.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option("--family", metavar="NAME", autocompletion=families, help="Only of this family, such as resnet."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="The first N of them.")] = None,
    json: Json = False,
) -> None:
    """Every name that model.backbone takes, with parameters, embedding, native image size and licence of weights."""
    claim_stdout()
    from harness.models.catalog import chosen, known_rows

    rows = chosen(known_rows(), filter_, library, family)
    rows.sort(key=lambda row: (getattr(row, SORTS[sort]) if sort != "name" else "", row.name))
    shown = rows[:limit]
    if json:
        print_json([row._asdict() for row in shown])
        return
    _show_rows(shown)
    more = f" of {len(rows)}" if len(shown) < len(rows) else ""
    note(
        f"{len(shown)}{more} backbones. params: without a classifier; D: size of the embedding; px: side of the images "
        "that the weights were trained on (others do, too); licence of the default weights, ? not stated, - none "
        f"published. Stages of one: harness models show {shown[0].name}"
    )


def _show_rows(rows: "list[Row]") -> None:
    """One line each. The licence is left to wider windows: a name is worth more."""
    wide = results().width >= 72
    names = max(len(row.name) for row in rows)
    stream = claim_stdout()
    head = f"{'name':<{names}}  {'params':>7}  {'D':>5}  {'px':>4}"
    stream.write(f"{head}{'  licence' if wide else ''}\n")
    for row in rows:
        line = f"{row.name:<{names}}  {short_count(row.parameters):>7}  {row.embedding:>5}  {row.size:>4}"
        licence = row.license or "-"
        stream.write(f"{line}  {licence}\n" if wide else f"{line}\n")


def short_count(number: int) -> str:
    """11.2M, 568k"""
    if number >= 999_500_000:
        return f"{number / 1e9:.2f}G"
    return f"{number / 1e6:.1f}M" if number >= 999_500 else f"{number / 1e3:.0f}k"


@app.command("show", short_help="One backbone: stages, what freezes, weights.")
def show_(
    name: Backbone,
    json: Json = False,
) -> None:
    """One backbone: its stages and what each number of train.freeze freezes, its embedding, its weights."""
    claim_stdout()
    from harness.models.catalog import describe

    document = describe(name)
    if json:
        print_json(document)
        return
    _show_backbone(document)


@app.command("diagram", short_help="A backbone with a head as a flowchart.")
def diagram_(
    name: Backbone,
    format_: Annotated[Literal["mermaid", "plantuml"], typer.Option("--format", help="Language.")] = "mermaid",
    depth: Annotated[
        int, typer.Option("--depth", metavar="N", help="1: stages; 2: what is in them; more: down to single layers.")
    ] = 1,
    size: Annotated[
        int | None, typer.Option("--size", metavar="PX", min=8, help="Side of the image; left out: the backbone's own.")
    ] = None,
    channels: Annotated[int, typer.Option("--channels", min=1, max=4, help="Channels of the image.")] = 3,
    classes: Annotated[int, typer.Option("--classes", min=2, help="Outputs of the head.")] = 2,
) -> None:
    """A backbone with a head as a flowchart: shapes, parameters, skip connections, repeated blocks folded into one.

    Mermaid goes between ```mermaid fences into Markdown, or into a file for mermaid.live.
    """
    stream = claim_stdout()
    from harness.models.backbones import native_size, resolve
    from harness.models.diagram import diagram, mermaid, plantuml
    from harness.models.network import outline

    backbone = resolve(name)
    side = native_size(backbone) if size is None else size
    drawing = diagram(outline(name, classes, channels, side), backbone.name, channels, side, depth)
    stream.write(mermaid(drawing) if format_ == "mermaid" else plantuml(drawing))


def _show_backbone(document: dict[str, Any]) -> None:
    stages = document["stages"]
    tags = document["weights"]
    show(
        f"{document['name']}: {sum(stage['parameters'] for stage in stages):,} parameters with a head for 2 classes, "
        f"embedding of {document['embedding']}, made for images of {document['size']} x {document['size']}"
    )
    show("")
    body = [("0", "nothing", "", f"{document['freeze'][0]['trainable']:,}")]
    for level, stage in zip(document["freeze"][1:], stages, strict=False):
        body.append((str(level["level"]), stage["name"], f"{stage['parameters']:,}", f"{level['trainable']:,}"))
    body.append(("", "head", f"{stages[-1]['parameters']:,}", "always trains"))
    longest = max(len("freezes up to"), *(len(name) for _, name, _, _ in body))
    with_counts = longest + 44 <= results().width
    lines = [
        f"{number:>12}  {stage:<{longest}}  " + (f"{count:>11}  " if with_counts else "") + f"{left:>13}"
        for number, stage, count, left in [("train.freeze", "freezes up to", "parameters", "left to train"), *body]
    ]
    claim_stdout().write("\n".join(lines) + "\n")
    show("")
    if tags:
        licence = document["license"] if document["license"] != "?" else "not stated"
        show(f"Weights, the default first: {', '.join(tags)}. Licence of the default: {licence}.")
        show(
            f"They were trained on images normalised with mean {_numbers(document['mean'])} and spread "
            f"{_numbers(document['std'])}. Here every image is normalised with mean and spread of the fold's own "
            "training rows instead."
        )
    else:
        show("The library publishes no weights of it.")
    show("")
    level = max(1, (len(stages) - 1) // 2)
    show(
        "  model:",
        f"    backbone: {document['name']}",
        f"    weights: {tags[0] if tags else 'none'}",
        "  train:",
        f"    freeze: {level}",
    )


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
