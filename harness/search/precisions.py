"""In which number format each backbone of a study trains: decided by rule before trial 0, and kept."""

from harness.config.load import Study
from harness.config.space import Choice
from harness.train.precision import choose_precision
from harness.types import Listener, PrecisionChosen


def choose_precisions(study: Study, device: str) -> dict[str, str]:
    """str(Precision) by backbone, on this machine. Raises RequestError where train.compile: true cannot be done."""
    chosen = {}
    for backbone in _backbones(study):
        model = study.spec.model.model_copy(update={"backbone": backbone})
        chosen[backbone] = str(choose_precision(study.spec.model_copy(update={"model": model}), device))
    return chosen


def say_precisions(chosen: dict[str, str], listener: Listener, kept: dict[str, str] | None = None) -> None:
    """Tell what each backbone trains in. kept: what the study began with and goes on in, whatever this machine is."""
    for backbone, precision in (kept or chosen).items():
        other = chosen.get(backbone, precision)
        if kept is None:
            listener(PrecisionChosen(f"{backbone} trains in {precision}"))
        elif other != precision:
            listener(
                PrecisionChosen(
                    f"{backbone} goes on in {precision}, as the study began; this machine by itself would take {other}"
                )
            )


def _backbones(study: Study) -> list[str]:
    range_ = study.space.get("model.backbone")
    return [str(name) for name in range_.options] if isinstance(range_, Choice) else [study.spec.model.backbone]
