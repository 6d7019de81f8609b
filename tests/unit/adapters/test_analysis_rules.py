"""Reading the rules: the package's own, an operator's file on top, and files that do not fit."""

from pathlib import Path

import pytest

from nubabel_workers.adapters.analysis_rules import load_rules
from nubabel_workers.domain.analysis import analyse
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.executions import Overrides


def test_operators_file_adds_a_category_of_his_server(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("categories:\n  slack-answer:\n    keywords:\n      9: [휴가]\n", "utf-8")

    rules = load_rules(file)

    assert analyse("휴가는 며칠이야?", Overrides(), rules, []).category == "slack-answer"
    assert analyse("이 글 번역해줘", Overrides(), rules, []).category == "writing"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"categories: [", "not YAML"),
        (b"- a", "must be a mapping"),
        (b"\xff\xfe", "cannot be read"),
        (b"categories: {x: {keywords: {2: [yes]}}}", "quote it"),
    ],
)
def test_file_that_does_not_fit_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_bytes(content)

    with pytest.raises(InvalidInputError, match=says):
        load_rules(file)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read"):
        load_rules(tmp_path / "none.yaml")


def test_packaged_rules_give_no_keyword_twice_to_one_name() -> None:
    # A later line would silently win over an earlier one.
    from importlib import resources

    import yaml

    text = resources.files("nubabel_workers.domain").joinpath("analysis_rules.yaml").read_text("utf-8")
    for group in ("categories", "skills"):
        for name, entry in yaml.safe_load(text)[group].items():
            keywords = [keyword for words in entry.get("keywords", {}).values() for keyword in words]
            assert len(keywords) == len(set(keywords)), f"{group}.{name}"
