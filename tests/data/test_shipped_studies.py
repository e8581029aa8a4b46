"""Every shipped study whose data are at hand can be prepared as it stands: nothing in it is left to be corrected."""

from pathlib import Path

import pytest
from small_data import quiet

from harness.config.load import load_study
from harness.data.prepare import prepare
from harness.store.home import Home

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
STUDIES = {"head_ct": 200, "chest_xray": 1976, "breastmnist": 780, "retinamnist": 1600, "ham10000": 3497}
STUDIES |= {
    "head_ct_long": 200,
    "head_ct_backbones": 200,
    "slides_native": 175,
    "cxr_multilabel": 240,
    "ham10000_vit": 3497,
    "chest_xray_ablation": 1976,
}


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development data at {SHARED}")
@pytest.mark.parametrize(("name", "images"), STUDIES.items())
def test_its_data_can_be_prepared(name: str, images: int, tmp_path: Path) -> None:
    written = load_study(name).spec.data.root
    root = SHARED / Path(written).relative_to("data")
    study = load_study(name, [f"data.root={root}"])
    prepared = prepare(study.spec.data, study.spec.seed, Home(tmp_path), quiet)
    assert len(prepared.dataset.y) == images
    assert prepared.dataset.classes == study.spec.data.classes or prepared.dataset.multilabel
    acknowledged = {finding.kind for finding in prepared.findings if "Acknowledged in the study" in finding.message}
    # head_ct speaks of its two copies for labels files other than the published one, too
    elsewhere = {"conflicting_labels"} if name == "head_ct" else set()
    assert acknowledged == set(study.spec.data.acknowledge or {}) - elsewhere, "what is acknowledged is there"
