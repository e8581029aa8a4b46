"""Every data block of docs/data-sources.md is one."""

import re
from pathlib import Path

import yaml

from harness.config.load import check_study

PAGE = Path(__file__).parents[2] / "docs/data-sources.md"


def test_every_block_of_the_page_is_a_data_block() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 7
    for block in blocks:
        study = check_study({"name": "s", "data": yaml.safe_load(block), "search": {"trials": 1}}, block)
        assert study.spec.data.root.startswith("data/")
