"""The published wheel: what is in it, and that its libraries work where the service's own folders are missing."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[3]
# The wheel first, the checkout nowhere: neither as a folder nor through the editable installation.
_ALONE = """
import sys
from pathlib import Path
wheel, checkout = sys.argv[1:]
sys.path = [wheel, *(entry for entry in sys.path if entry and Path(entry) != Path(checkout))]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, unpacked."""
    built, unpacked = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("unpacked")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
    subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, timeout=100)
    (archive,) = built.glob("*.whl")
    with zipfile.ZipFile(archive) as files:
        files.extractall(unpacked)
    return unpacked


def run(wheel: Path, program: str) -> None:
    command = [sys.executable, "-c", _ALONE + program, str(wheel), str(_ROOT)]
    done = subprocess.run(command, cwd=wheel, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_wheel_holds_the_package_alone(wheel: Path) -> None:
    folders = {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")}

    assert folders == {"nubabel_workers"}
    assert (wheel / "nubabel_workers" / "opencode" / "__init__.py").exists()


@pytest.mark.parametrize(
    "library", ["nubabel_workers.opencode", "nubabel_workers.adapters.opencode", "nubabel_workers.client"]
)
def test_library_imports_without_the_service(wheel: Path, library: str) -> None:
    run(
        wheel,
        f"""
import {library}
assert {library}.__file__.startswith(wheel), {library}.__file__
assert not {{"config", "tasks", "sqlalchemy", "psycopg", "fastapi", "slack_sdk"}} & set(sys.modules)
try:
    import config
except ImportError:
    pass
else:
    raise AssertionError("the checkout's configuration is still importable: " + config.__file__)
""",
    )


def test_client_can_be_made_without_the_service(wheel: Path) -> None:
    run(
        wheel,
        """
from nubabel_workers.opencode import OpenCode, UnavailableError
with OpenCode("http://127.0.0.1:9") as opencode:
    try:
        opencode.health()
    except UnavailableError as error:
        assert "could not be reached" in str(error)
    else:
        raise AssertionError("somebody listens on the discard port")
""",
    )
