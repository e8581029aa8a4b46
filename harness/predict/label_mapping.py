"""What another data set's labels are called in the bundle: `--map theirs=ours`, `--map theirs=-` to leave rows out.

Knows names only. Nothing is guessed: a label that is spelled otherwise is refused with the nearest class.
"""

from collections.abc import Iterable, Mapping

from harness.errors import RequestError, nearest

LEFT_OUT = "-"


def label_mapping(theirs: Iterable[str], ours: tuple[str, ...], maps: Iterable[str]) -> dict[str, str | None]:
    """Our class for each of their labels, None where its rows are left out. Labels of one name need no map.

    Raises RequestError for what is no map, names that nobody has, labels that no class is known for, and where nothing
    would be left.
    """
    known = list(dict.fromkeys(theirs))
    asked: dict[str, str | None] = {}
    for text in maps:
        their, found, our = text.rpartition("=")
        if not found or not their:
            raise RequestError(f"--map {text}: write theirs=ours, such as --map {known[0]}={ours[-1]}.")
        if their not in known:
            raise RequestError(
                f"--map {text}: the data has no label {their!r}.{nearest(their, known)} It has {', '.join(known)}."
            )
        if our not in (*ours, LEFT_OUT):
            raise RequestError(
                f"--map {text}: the bundle has no class {our!r}.{nearest(our, ours)} It has {', '.join(ours)}, and "
                f"{LEFT_OUT} leaves the rows out."
            )
        if their in asked:
            raise RequestError(f"--map {text}: {their} is mapped twice.")
        asked[their] = None if our == LEFT_OUT else our
    unknown = [name for name in known if name not in asked and name not in ours]
    if unknown:
        near = nearest(unknown[0], ours) or nearest(unknown[0].upper(), ours) or nearest(unknown[0].lower(), ours)
        raise RequestError(
            f"the data's {_labels(unknown)} {'is' if len(unknown) == 1 else 'are'} no class of the bundle.{near} "
            f"The bundle's classes: {', '.join(ours)}. Type for each of them --map {unknown[0]}=CLASS, or "
            f"--map {unknown[0]}={LEFT_OUT} to leave its rows out."
        )
    mapping = {name: asked.get(name, name) for name in known}
    if not any(mapping.values()):
        raise RequestError("--map leaves no label over: nothing would be evaluated.")
    return mapping


def _labels(names: list[str]) -> str:
    return f"label {names[0]!r}" if len(names) == 1 else f"labels {', '.join(map(repr, names))}"


def columns_mapping(theirs: tuple[str, ...], ours: tuple[str, ...], maps: Iterable[str]) -> dict[str, str]:
    """For several labels: our class -> their column. Raises RequestError as above, and where a class has no column or
    several."""
    mapping = label_mapping(theirs, ours, maps)
    columns: dict[str, str] = {}
    for their, our in mapping.items():
        if our is None:
            continue
        if our in columns:
            raise RequestError(f"--map: {columns[our]} and {their} are both {our}. Leave one out: --map {their}=-")
        columns[our] = their
    missing = [name for name in ours if name not in columns]
    if missing:
        raise RequestError(
            f"the data has no column for {', '.join(missing)}: the bundle answers {', '.join(ours)}. Name its columns "
            "with --set data.label='[A, B]', and --map THEIRS=OURS where they are called otherwise."
        )
    return columns


def in_words(mapping: Mapping[str, str | None]) -> list[str]:
    """'1 -> PNEUMONIA', for what is not called alike."""
    return [f"{their} -> {our or 'left out'}" for their, our in mapping.items() if their != our]
