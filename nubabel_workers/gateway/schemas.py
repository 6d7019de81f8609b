"""The published schemas as files: `python -m nubabel_workers.gateway.schemas docs/schemas` writes them anew."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nubabel_workers.domain.submission import Submission
from nubabel_workers.gateway.app import api


def published_schemas() -> Mapping[str, str]:
    """File name -> text."""
    submission: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:nubabel:schema:orchestration.submit:1",
        **Submission.model_json_schema(),
    }
    return {"openapi.json": _text(api().openapi()), "submit.schema.json": _text(submission)}


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, text in published_schemas().items():
        (Path(sys.argv[1]) / name).write_text(text, encoding="utf-8")
