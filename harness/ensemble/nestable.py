"""Whether members can be trained again without a pair of folds, before anything is done for it: see pairs.py."""

from collections.abc import Sequence

from harness.config.load import build_spec
from harness.config.space import fill
from harness.config.spec import Spec
from harness.ensemble.members import Member
from harness.ensemble.nested import too_few_folds
from harness.errors import RequestError
from harness.models.network import require_same_weights
from harness.models.weights import kind_of
from harness.store.records import StudyRecord


def require_nestable(members: Sequence[Member], studies: Sequence[StudyRecord], k: int) -> None:
    """Raises RequestError where networks cannot be trained again so that they have not seen a pair of folds."""
    if k < 3:
        raise RequestError(too_few_folds(k))
    for member in members:
        study = next(one for one in studies if one.name == member.study)
        spec = member_spec(member, study)
        name = f"{member.name} of study {study.name}"
        files = [(member.weights(fold), member.predictions(fold)) for fold in range(k)]
        gone = [fold for fold, pair in enumerate(files) if not all(path.is_file() for path in pair)]
        if gone:
            raise RequestError(
                f"--nested full: {name} has no files of fold {gone[0]} any more ({member.folder}). Restore them, leave "
                "the trial out by a smaller --top, or build without --nested full."
            )
        if kind_of(spec.model.weights) == "study":
            raise RequestError(
                f"--nested full: {name} starts each fold from the fold of an earlier study that held out the same rows "
                f"(model.weights: {spec.model.weights}), and that study has no network without two folds: its start "
                "would have seen the scored rows. Take members with model.weights: none, pretrained or a file, or "
                "judge by a held-out test split."
            )
        require_same_weights(study.weights, spec.model.weights, spec.model.backbone, study.name)
        if spec.train.select == "scored_fold":
            raise RequestError(
                f"--nested full: {name} picks its epoch on the rows that it is scored on (train.select: scored_fold), "
                "so no score of it is an estimate. Run the study with train.select: last or inner."
            )
        if spec.model.backbone not in study.precision:
            raise RequestError(
                f"--nested full: the study {study.name} does not say in which number format {spec.model.backbone} was "
                "trained. Run it again under a new name (--as NEWNAME)."
            )


def member_spec(member: Member, study: StudyRecord) -> Spec:
    return build_spec(fill(study.tree, member.trial.params), f"{member.name} of {study.name}")
