"""The rule by which every claim picks rows, shared by all tables that workers claim from."""

# From `candidate(id, suspect, rank, named)`: the named row first, then by rank. A suspect row (its last delivery
# ended without a result) is taken alone, so that a poison row takes no innocent ones with it.
CHOSEN = """
numbered AS (SELECT id, suspect, row_number() OVER (ORDER BY named DESC, suspect, rank) AS place FROM candidate),
chosen AS (
  SELECT id FROM numbered
  WHERE CASE WHEN (SELECT suspect FROM numbered WHERE place = 1) THEN place = 1 ELSE NOT suspect END
)
"""
