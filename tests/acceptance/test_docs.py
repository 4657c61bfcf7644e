"""The examples of docs/python.md run, in their order, in an empty folder."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
_BLOCK = re.compile(r"^```(python|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+\.(?:py|toml))\n")  # its first line names the file that a block is


def test_the_python_page_runs_as_it_stands(tmp_path):
    blocks = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    script = []
    for language, text in blocks:
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
    assert len(script) == 8
    assert {path.name for path in tmp_path.glob("*.toml")} == {"own.toml", "loop.toml"}
    assert "<html" in (tmp_path / "search.html").read_text(encoding="utf-8")[:200]
    assert (tmp_path / "own-model" / "model.safetensors").exists()
