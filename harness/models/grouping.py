"""Which block of a backbone a tensor belongs to, where the library itself does not say. Knows no library."""

from torch import nn

CONTAINERS = ("features", "layers", "trunk_output", "encoder", "blocks", "stages", "dense_stages", "transformers")
"""submodules that only hold the blocks of a network one after another"""
HEADS = ("head", "heads", "fc")


def generic_groups(backbone: nn.Module, names: list[str], coarse: bool) -> list[float]:
    """For each name of a tensor or module a number that rises from the input (0) to the head (inf).

    The order is that of definition, which in torchvision is that of the forward pass. A stage is a composite block, or
    a run of single layers up to a pooling (VGG); norms belong to what comes before them, tokens and position embeddings
    to the stem. Not `coarse`: the blocks within the stages.
    """
    numbered = _numbered(backbone, coarse)
    return [_number(name, numbered) for name in names]


def _number(name: str, numbered: list[tuple[str, float]]) -> float:
    if name.split(".")[0] in HEADS:
        return float("inf")
    return next((n for unit, n in reversed(numbered) if name == unit or name.startswith(f"{unit}.")), 0.0)


def _units(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The blocks and single layers of a network, its containers opened."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        found += _units(child, f"{path}.") if name in CONTAINERS else [(path, child)]
    return found


def _numbered(backbone: nn.Module, coarse: bool) -> list[tuple[str, float]]:
    numbered: list[tuple[str, float]] = []
    number, open_run = 0, True
    """open_run: single layers may still join the current number"""
    for place, (name, unit) in enumerate(_units(backbone)):
        if any(True for _ in unit.children()):
            parts = [] if coarse or not _holds_blocks(unit) else list(unit.named_children())
            number += place > 0 and any(p.ndim > 1 for p in unit.parameters())
            numbered.append((name, number))
            for inner, (child, _) in enumerate(parts):
                number += inner > 0
                numbered.append((f"{name}.{child}", number))
            open_run = False
            continue
        weight = getattr(unit, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim > 1 and not open_run:
            number, open_run = number + 1, True
        numbered.append((name, number))
        if "Pool" in type(unit).__name__:
            open_run = False
    return numbered


def _holds_blocks(unit: nn.Module) -> bool:
    """A sequence whose parts are themselves composite: a stage of residual blocks."""
    if not isinstance(unit, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    return sum(any(True for _ in child.children()) for child in unit.children()) > 1
