"""docs/objectives.md is generated; this fails when a docstring or a config changed and the page did not."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "make_objective_table.py"


def test_the_page_is_fresh():
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_stale_page_is_noticed(tmp_path):
    for folder in ("kdrun/objectives", "conf/objective", "scripts", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "scripts" / SCRIPT.name).write_text(SCRIPT.read_text())
    (tmp_path / "kdrun" / "objectives" / "x.py").write_text(
        '"""Summary."""\ndef x(a, *, b=1):\n    """arXiv 1503.02531"""\n'
    )
    (tmp_path / "conf" / "objective" / "x.yaml").write_text("x: {weight: 0.5}\n")
    command = [sys.executable, str(tmp_path / "scripts" / SCRIPT.name)]
    assert subprocess.run([*command, "--check"], capture_output=True, timeout=60).returncode == 1
    subprocess.run(command, check=True, timeout=60)
    assert subprocess.run([*command, "--check"], timeout=60).returncode == 0
    page = (tmp_path / "docs" / "objectives.md").read_text()
    assert "| valid positions | per sample |" in page
    assert "| [`x`](#x) | Summary | `a` | `b: 1` | [1503.02531]" in page and "`objective=x` (0.5)" in page
    (tmp_path / "conf" / "objective" / "x.yaml").write_text("x: {weight: 0.6}\n")
    assert subprocess.run([*command, "--check"], capture_output=True, timeout=60).returncode == 1


def test_references_use_nothing_of_what_they_prove():
    for name in ("loss_references", "feature_references"):
        text = (ROOT / "tests" / f"{name}.py").read_text()
        assert not re.search(r"^\s*(from|import) (kdrun|logit_losses|feature_losses)\b", text, re.MULTILINE)


def test_every_term_is_tested_and_every_objective_file_is_short():
    files = {path.stem: path.read_text() for path in (ROOT / "kdrun" / "objectives").glob("*.py")}
    files = {
        name: text for name, text in files.items() if name not in ("__init__", "terms", "objective_term", "settings")
    }
    here = Path(__file__).parent
    table = here.parent / "logit_losses.py"
    tests = "".join(path.read_text() for path in (*here.parent.rglob("test_*.py"), table))
    proofs = (here.parent / "feature_losses.py").read_text()
    assert all(
        re.search(rf"from kdrun.objectives.{name} import (.*, )?{name}\b", tests)
        or re.search(rf'Proof\(\s*"{name}",', proofs)
        for name, t in files.items()
        if f"def {name}(" in t
    )
    rows = table.read_text()
    assert all(
        f'Loss("{name}", ' in rows
        for name in (
            *("ce", "kd", "kd_topk", "kl_reverse", "jsd", "ce_kd", "vocabulary_ce"),
            *(
                name
                for name, text in files.items()
                if "student_logits" in text and f"def {name}(" in text and name != "relation"
                if "sampled_tokens" not in text and "student_captured" not in text  # of policies, of nested students
            ),
        )
    )
    assert all(len(text.splitlines()) < 150 for name, text in files.items() if name != "vocabulary")
