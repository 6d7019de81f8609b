"""Categories stand in the words of a tool only: what is read, and what is unknown."""

from nubabel_workers.adapters.opencode.categories import categories_in

OWN = "Available agent types and the tools they have access to:\n- build: The default agent."
OMO = """Spawn agent task with category-based or direct agent selection.
  - category: Use predefined category
    Available categories:
    - visual-engineering: Frontend, UI/UX
  - deep: research. ONE goal
    that goes on in another line
  - slack_answer.v2: short: answers
  - subagent_type: Use specific agent directly (explore, librarian)
  - run_in_background: Optional.
"""


def test_categories_are_read_from_the_plugins_tool_beside_opencodes_own() -> None:
    assert categories_in([OWN, OMO]) == ["visual-engineering", "deep", "slack_answer.v2"]


def test_where_no_words_tell_them_they_are_unknown() -> None:
    assert categories_in([]) is None
    assert categories_in([OWN]) is None
    assert categories_in(["Available categories:\n(none)"]) is None


def test_an_endless_list_is_read_to_a_bound() -> None:
    endless = "Available categories:\n" + "\n".join(f"- c{number}: x" for number in range(10_000))

    assert len(categories_in([endless]) or ()) == 100
