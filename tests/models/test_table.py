"""The table of backbones that is shipped, against the backbones themselves."""

import pytest

from harness.errors import RequestError
from harness.models import catalog
from harness.models.backbones import list_backbones, resolve
from harness.models.catalog import Row, known_rows, measure, read_table

SAMPLE = [
    "timm/resnet10t",
    "timm/vit_tiny_patch16_224",
    "timm/mobilenetv3_small_050",
    "timm/inception_v3",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/regnet_y_400mf",
]


def test_the_table_covers_the_libraries_it_was_made_with():
    made_with, rows = read_table()
    assert set(made_with) == {"timm", "torchvision"}
    assert len(rows) > 1300 and len({row.name for row in rows}) == len(rows)
    if made_with == catalog.installed():
        missing = set(list_backbones()) - {row.name for row in rows}
        assert len(missing) < 10 and {row.name for row in rows} <= set(list_backbones())
    assert all(row.parameters > 0 and row.embedding > 0 and row.size >= 32 for row in rows)


def test_known_numbers():
    rows = {row.name: row for row in read_table()[1]}
    # torchvision's documentation: 11,689,512 and 138,357,544 with a classifier for 1,000 classes
    assert rows["timm/resnet18"] == Row(
        "timm/resnet18", "resnet", 11_689_512 - 512 * 1000 - 1000, 512, 224, "apache-2.0", "a1_in1k"
    )
    assert rows["torchvision/vgg16"] == Row(
        "torchvision/vgg16", "vgg", 138_357_544 - 4096 * 1000 - 1000, 4096, 224, "?", "IMAGENET1K_V1"
    )


@pytest.mark.parametrize("name", SAMPLE)
def test_a_row_is_what_building_gives(name):
    made_with, rows = read_table()
    (row,) = [row for row in rows if row.name == name]
    found = measure(name)
    if made_with != catalog.installed():  # tags, and with them licences and sizes, are what libraries change
        found = found._replace(size=row.size, license=row.license, weights=row.weights)
    assert found == row


@pytest.mark.parametrize("name", ["torchvision/squeezenet1_1", "timm/qwen3_vit_88m_enc"])
def test_what_gives_no_embedding_has_no_row(name):
    assert measure(name) is None
    assert name not in {row.name for row in read_table()[1]}


def test_backbones_of_newer_libraries_are_not_listed(tmp_path, monkeypatch):
    text = catalog.FILE.read_text().partition("\n")[2]
    newer = tmp_path / "backbones.csv"
    newer.write_text(f"# timm 99.0, torchvision 9.0\n{text}timm/resnet3000,resnet,1,1,224,?,a1\n")
    monkeypatch.setattr(catalog, "FILE", newer)
    assert "timm/resnet3000" in {row.name for row in read_table()[1]}
    assert {row.name for row in known_rows()} <= set(list_backbones())
    with pytest.raises(RequestError):
        resolve("timm/resnet3000")
