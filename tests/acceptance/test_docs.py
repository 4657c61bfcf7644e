"""The examples of the Python pages run, in their order, each page in an empty folder."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```(python|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+\.(?:py|toml))\n")  # the first line of a block that is a file


@pytest.mark.parametrize(
    ("page", "examples", "written"),
    [
        ("python.md", 5, {"search.html", "model/model.safetensors"}),
        (
            "custom-code.md",
            3,
            {"nets.py", "own.toml", "loops.py", "loop.toml", "own-model/model.safetensors"},
        ),
    ],
)
def test_the_examples_of_a_page_run(tmp_path, page, examples, written):
    script = []
    for language, text in _BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
        if named := _FILE.match(text):
            (tmp_path / named[1]).write_text(text, encoding="utf-8")
        else:
            assert language == "python", text
            script.append(text)
    (tmp_path / "page.py").write_text("\n".join(script), encoding="utf-8")

    process = subprocess.run(
        [sys.executable, "-W", "error", "page.py"], cwd=tmp_path, capture_output=True, text=True
    )

    assert (process.returncode, process.stderr) == (0, "")
    assert len(script) == examples
    assert [name for name in sorted(written) if not (tmp_path / name).stat().st_size] == []
    for html in tmp_path.glob("*.html"):
        assert "<html" in html.read_text(encoding="utf-8")[:200]
