"""What a page says, read from its HTML; how it looks is in test_browser."""

import re
from html.parser import HTMLParser

import pytest
from plots.records import make_run, make_sweep

from kdrun.files import write_json
from kdrun.plots.subject import find_subject
from kdrun.problems import UserError
from kdrun.report.markup import code, tag, text
from kdrun.report.page import render

NASTY = "<script>alert('x')</script> & \"co\""


@pytest.fixture
def without_plots(monkeypatch):
    monkeypatch.setattr("kdrun.report.figures.have_matplotlib", lambda: False)


class Reader(HTMLParser):
    """Checks nesting and collects ids, tags and words."""

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.tags, self.words = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.tags.append(name)
        self.ids += [value for key, value in attributes if key == "id"]
        if name not in ("meta", "br"):
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.ids += [value for key, value in attributes if key == "id"]

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def page_of(outputs, *words):
    page = render(find_subject(outputs, words, tables=True))
    return page, Reader(page)


def test_strings_are_escaped_and_numbers_keep_together():
    assert (
        tag("p", "<b>", [1, None, tag("i", "&")], class_="a b", lang=None)
        == '<p class="a b">&lt;b&gt;1<i>&amp;</i></p>'
    )
    assert tag("p", title='"') == '<p title="&quot;"></p>'
    assert text("-3.64 to -1, n = 3, 91.2 ± 0.4 %") == "−3.64 to −1, n\u00a0=\u00a03, 91.2\u00a0±\u00a00.4\u00a0%"
    assert text("a-1 2026-01-31 1e-4") == "a-1 2026-01-31 1e-4"
    assert code("x=-1 a = 2") == "<code>x=-1 a = 2</code>"


def test_the_order_of_a_run(tmp_path, without_plots):
    make_run(tmp_path)
    page, read = page_of(tmp_path)
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == ["Student against controls", "Curves", "Cost", "Data", "Config", "How to reproduce"]
    assert page.index("Undecided") < page.index("<h2>")
    assert read.text.count("Figures need matplotlib") == 3
    for said in ("2 test samples are also in train", "kdrun data=digits", "ab" * 32, "teacher resnet8", "90.07 %"):
        assert said in read.text.replace("\u00a0", " ") or said in page, said


def test_a_missing_seed_is_seen_and_in_no_mean(tmp_path, without_plots):
    make_run(tmp_path, seeds=4, lost={("student", 3): 2})
    page, read = page_of(tmp_path)
    assert '<span class="lost">diverged</span>' in page and "3 of 4" in read.text
    assert "FloatingPointError: the kd term became nan at step 50" in read.text
    assert "Traceback" in read.text or "End of run.log" in read.text


def test_a_run_without_a_result_says_why(tmp_path, without_plots):
    make_run(tmp_path, summary={}, stages=[], audit={}, status="interrupted")
    _, read = page_of(tmp_path)
    assert "No result yet: interrupted" in read.text and "None" not in read.text
    assert not re.search(r"\b0\.00\b", read.text)


def test_a_name_cannot_become_markup(tmp_path, without_plots):
    run = make_run(tmp_path, name=NASTY, command=NASTY, overrides=[NASTY], error={"type": NASTY, "message": NASTY})
    make_sweep(tmp_path, [([f"name={NASTY}"], run), (["name=2"], None)], command=NASTY)
    for word in (run.id, "temperature-0badcafe"):
        page, read = page_of(tmp_path, word)
        assert "<script" not in page and "alert(" in read.text and "script" not in read.tags


def test_equal_records_give_equal_pages_that_load_nothing(tmp_path, without_plots):
    run = make_run(tmp_path)
    page, read = page_of(tmp_path, run.id)
    assert page == page_of(tmp_path, run.id)[0]
    assert not {"script", "link", "img", "iframe"} & set(read.tags) and "http://" not in page and "https://" not in page
    assert "default-src &#x27;none&#x27;" in page and str(tmp_path) not in page and "/nowhere" not in page


def test_config_shows_what_differs_between_cells(tmp_path, without_plots):
    run = make_run(tmp_path)
    run.record["cells"]["1"]["trainer"] = {"epochs": 9, "optimizer": {"lr": 1e-4, "betas": [0.9, 0.999]}}
    write_json(run.dir / "record.json", run.record)
    page, read = page_of(tmp_path)
    assert "Keys that differ between seeds" in read.text and "trainer.epochs" in read.text and "paths.store" not in page


def test_plots_are_elements_with_ids_of_their_own_and_colours_of_the_page(tmp_path):
    pytest.importorskip("matplotlib")
    make_run(tmp_path, seeds=1)
    page, read = page_of(tmp_path)
    assert page.count('<svg class="plot" role="img" aria-label="') == 7, "four curves, two costs that differ, seeds"
    assert len(read.ids) == len(set(read.ids)), "ids are unique"
    used = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", page))
    assert used and {one or other for one, other in used} <= set(read.ids)
    body = page[page.index("<body") :]
    assert not re.search(r"#[0-9a-f]{6}\b", body) and "var(--blue)" in body and "currentColor" in body
    assert "DejaVu" not in body and "<metadata" not in body and 'class="swatch"' in body


# sweeps


def points(tmp_path):
    """The second point is best on validation, the first on test."""
    runs = [make_run(tmp_path, f"{n}a" * 32, shift=n / 100) for n in (1, 2)]
    for run, value in zip(runs, (0.99, 0.5), strict=True):
        for stage in run.record["stages"]:
            if stage["role"] == "student":
                stage["test"]["best"]["accuracy"] = value
        run.record["summary"]["arms"]["student"]["best"]["mean"] = value
        write_json(run.dir / "record.json", run.record)
    failed = make_run(tmp_path, "3a" * 32, seeds=2, lost={("student", 1): 1}, shift=0.9)
    (failed.dir / "run.log").write_text("a line\nthe last line <b>\n")
    return [(["t=1"], runs[0]), (["t=2"], runs[1]), (["t=3"], failed), (["t=4"], None)]


def test_the_best_point_is_chosen_by_validation_and_never_by_test(tmp_path, without_plots):
    make_sweep(tmp_path, points(tmp_path))
    page, read = page_of(tmp_path, "temperature-0badcafe")
    rows = re.findall(r"<tr.*?</tr>", page)
    (marked,) = [row for row in rows if "best by validation" in row]
    assert 'class="marked"' in marked and ">t=2 " in marked.replace("</span>t", "</span>>t")
    assert "Best by validation: t=2" in read.text and "2 of 4 points done" in read.text
    assert "1 diverged, 1 new." in read.text.replace("\u00a0", " ")


def test_failures_have_their_message_and_the_end_of_their_log(tmp_path, without_plots):
    make_sweep(tmp_path, points(tmp_path))
    _, read = page_of(tmp_path, "temperature-0badcafe")
    assert "2: t=3" in read.text and "Diverged. FloatingPointError" in read.text and "the last line <b>" in read.text


def test_what_a_search_chose_is_marked(tmp_path, without_plots):
    found = points(tmp_path)
    front = [{"run": run.id, "number": n} for n, (_, run) in enumerate(found[:2])]
    search = {"objectives": ["accuracy", "latency"], "sampler": "tpe", "trials": [], "pareto": front, "storage": "/x"}
    make_sweep(tmp_path, found, kind="search", search=search)
    page, read = page_of(tmp_path, "temperature-0badcafe")
    assert page.count('class="marked"') == 2 and "On the front of accuracy and latency: 2 points." in read.text
    assert "tpe" in read.text and "/x" not in page


# tables


def test_a_table_of_another_form_is_refused(tmp_path, without_plots):
    (tmp_path / "tables/odd").mkdir(parents=True)
    write_json(tmp_path / "tables/odd/table.json", {"title": "Odd", "rows": [{"id": "a"}], "columns": [{"id": "b"}]})
    with pytest.raises(UserError, match="is not a table of this kdrun"):
        page_of(tmp_path, "odd")


def test_a_table_shows_cells_notes_and_jobs(tmp_path, without_plots, monkeypatch):
    from kdrun.tables import render as printed

    cell = printed.PrintedCell("91.2 ± 0.4", bold=True, marks=("a",))
    monkeypatch.setattr(printed, "grid", lambda table: (["", "best, %"], [[printed.PrintedCell("KD <b>"), cell]]))
    monkeypatch.setattr(printed, "explanation", lambda table: ["Mean over seeds."])
    monkeypatch.setattr(
        printed, "provenance_lines", lambda table: [("command", "`kdrun table digits`"), ("commit", "abc")]
    )
    job = {"label": "KD", "status": "done", "run": "kd-1a2b3c4d", "job_hash": "1a2b3c4d5e", "overrides": ["t=4"]}
    (tmp_path / "tables/digits").mkdir(parents=True)
    notes = [{"mark": "a", "text": "KD: seed 3 without a result"}]
    table = {"title": "Digits", "notes": notes, "warnings": ["made with uncommitted changes"], "jobs": [job]}
    write_json(tmp_path / "tables/digits/table.json", table)
    page, read = page_of(tmp_path, "digits")
    assert "<strong>91.2\u00a0±\u00a00.4<sup>a</sup></strong>" in page and "KD &lt;b&gt;" in page
    for said in ("KD: seed 3 without a result", "uncommitted changes", "1 of 1 jobs done", "kd-1a2b3c4d", "t=4"):
        assert said in read.text, said
