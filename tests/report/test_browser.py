"""Pages in headless Chromium: nothing overflows, nothing is fetched, dark is dark, paper gets all of it."""

import json
import os
import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest
from plots.records import make_run, make_sweep

from kdrun.plots.subject import find_subject
from kdrun.report.page import render

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if BROWSER is None:
    pytest.skip("no Chromium here", allow_module_level=True)
pytest.importorskip("matplotlib")

LONG = "student_with_a_very_long_name_that_has_no_place_to_break_" * 3

HARNESS = """<!doctype html><meta charset="utf-8"><body>{frames}<pre id="found"></pre><script>
addEventListener("load", () => {{
  const found = [];
  for (const frame of document.querySelectorAll("iframe")) {{
    const page = frame.contentDocument, root = page.documentElement, sizes = [];
    for (const text of page.querySelectorAll("svg.plot text")) {{
      const scale = text.getScreenCTM();
      sizes.push(parseFloat(getComputedStyle(text).fontSize) * Math.hypot(scale.a, scale.b));
    }}
    found.push({{
      name: frame.title, inner: root.clientWidth, content: Math.max(root.scrollWidth, page.body.scrollWidth),
      boxes: [...page.querySelectorAll(".scroll")].map(box => box.getBoundingClientRect().right),
      fetched: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
      smallest: Math.min(...sizes), headline: page.querySelector(".headline").textContent,
    }});
  }}
  document.getElementById("found").textContent = JSON.stringify(found);
}});
</script></body>"""


def browse(profile: Path, address: Path, *options: str, width: int = 1280) -> str:
    """One visit; what it printed. Names resolve to nothing, so that no test ever reaches out."""
    done = subprocess.run(
        [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}", f"--window-size={width},1000", *options, address.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "HOME": str(profile)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """run.html with missing seeds and an endless name, sweep.html with a failure."""
    outputs, folder = tmp_path_factory.mktemp("outputs"), tmp_path_factory.mktemp("pages")
    run = make_run(outputs, seeds=4, lost={("student", 3): 2}, name=LONG, command=f"kdrun name={LONG}")
    other = make_run(outputs, "cd" * 32, shift=0.02)
    make_sweep(outputs, [([f"student={LONG}"], run), (["student=mlp_16"], other), (["student=mlp_8"], None)])
    (folder / "run.html").write_text(render(find_subject(outputs, [run.id])))
    (folder / "sweep.html").write_text(render(find_subject(outputs, ["temperature-0badcafe"])))
    return folder


def test_nothing_overflows_at_any_width_and_plots_stay_readable(folder, tmp_path):
    frames = ""
    for name in ("run", "sweep"):
        page = escape((folder / f"{name}.html").read_text().replace("<details>", "<details open>"))
        for width in (1280, 768, 360):
            frames += f'<iframe title="{name} {width}" width="{width}" height="900" srcdoc="{page}"></iframe>'
    (folder / "harness.html").write_text(HARNESS.format(frames=frames))
    dom = browse(tmp_path, folder / "harness.html", "--dump-dom", "--virtual-time-budget=5000")
    match = re.search(r'<pre id="found">(\[.*?\])</pre>', dom)
    assert match, dom[-2000:]
    found = json.loads(match[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    assert len(found) == 6 and found[0]["headline"] == "Undecided"
    for page in found:
        assert page["content"] <= page["inner"], page
        assert all(right <= page["inner"] + 1 for right in page["boxes"]), page
        assert page["fetched"] == [] and page["smallest"] >= 8, page


def requests_of_pages(log: Path) -> list[str]:
    """Addresses that a document asked for; what Chromium itself asks for belongs to no file."""
    text = log.read_text()
    content = json.loads(text if text.rstrip().endswith("}") else text.rstrip().rstrip(",") + "]}")
    kind = content["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    asked = [
        event["params"] for event in content["events"] if event["type"] == kind and "url" in event.get("params", {})
    ]
    return [one["url"] for one in asked if "file://" in str(one.get("network_isolation_key"))]


def test_no_request_leaves_the_page(folder, tmp_path):
    leaking = '<!doctype html><img src="http://leak.test/x.png">'
    (folder / "leaking.html").write_text(leaking)
    log, shot = tmp_path / "net.json", f"--screenshot={tmp_path / 'light.png'}"
    browse(tmp_path / "one", folder / "leaking.html", f"--log-net-log={log}", shot)
    assert requests_of_pages(log) == ["http://leak.test/x.png"], "this test can see a request"
    page = (folder / "run.html").read_text()
    (folder / "attacked.html").write_text(page.replace("</main>", '<img src="http://leak.test/x.png"></main>'))
    for name in ("run", "attacked"):
        browse(tmp_path / name, folder / f"{name}.html", f"--log-net-log={log}", shot)
        assert requests_of_pages(log) == [], name


def brightness(path: Path) -> float:
    from PIL import Image

    with Image.open(path) as image:
        grey = image.convert("L").resize((1, 1), Image.Resampling.BOX)
        return grey.getpixel((0, 0))


def test_light_dark_phone_and_paper(folder, tmp_path):
    light, dark, paper = tmp_path / "light.png", tmp_path / "dark.png", tmp_path / "paper.pdf"
    browse(tmp_path / "a", folder / "run.html", f"--screenshot={light}")
    scheme = "--blink-settings=preferredColorScheme=0"
    browse(tmp_path / "a", folder / "run.html", f"--screenshot={dark}", scheme, width=360)
    browse(tmp_path / "a", folder / "run.html", f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    assert brightness(light) > 230 and brightness(dark) < 60
    assert paper.read_bytes().startswith(b"%PDF") and paper.stat().st_size > 20_000
