"""The report of a run: what holds between its figures, how it is written, read and compared."""

import json
import math
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from report_documents import NASTY, document, finished_run

from polystage.errors import PolystageError
from polystage.report.comparison import changes_table, print_comparison, totals_table
from polystage.report.document import to_text
from polystage.report.html import report_page
from polystage.report.load import load_report
from polystage.report.table import print_report, summary
from polystage.tools.report import report

OPTIONS = [{}, {"order": "sequential"}, {"inferences": 3}, {"cores": 2, "inferences": 2}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reports")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
class TestFigures:
    def test_the_seven_steps_multiply_to_the_measured_utilisation(self, folder, options):
        found = document(folder, **options)
        for figures in (found["totals"], *found["layers"]):
            times = figures["losses_us"]
            assert (times is None) == (figures["macs"] == 0)
            if times is None:
                continue
            factors = [a / b for a, b in pairwise(times)]
            measured = figures.get("own_us", figures["latency_us"])
            assert len(factors) == 7 and all(f <= 1 + 1e-12 for f in factors)
            assert math.isclose(math.prod(factors) * measured, times[0], rel_tol=1e-9)
        totals = found["totals"]
        product = totals["losses_us"][0] / totals["losses_us"][-1]
        assert math.isclose(product, totals["utilization"], rel_tol=1e-9)

    def test_no_limit_is_above_what_was_measured(self, folder, options):
        """So that nothing was cut off to make the steps descend."""
        found = document(folder, **options)
        for layer in found["layers"]:
            assert max(layer["busy_us"].values()) <= layer["own_us"] * (1 + 1e-9)
            assert layer["latency_us"] <= layer["own_us"] * (1 + 1e-9)
        assert max(found["totals"]["busy_us"].values()) <= found["totals"]["latency_us"]

    def test_the_contractions_are_those_of_the_kernels(self, folder, options):
        """3 x 12 times 12 x 10 on an array of 8 x 8, which holds the weights: k and m in 2 parts
        each, 3 columns stream."""
        found = document(folder, **options)
        first = found["layers"][0]
        cycles = [us * 1000 / 4 / found["inferences"] for us in first["losses_us"][:5]]
        assert cycles == pytest.approx([360 / 64, 360 / 64, 360 / 64, 6.0, 12.0])

    def test_the_course_is_that_of_all_cores(self, folder, options):
        found = document(folder, **options)
        line = found["timeline"]
        assert line["cores"] == found["cores"] == options.get("cores", 1)
        assert {track // len(line["queues"]) for track in line["track"]} == set(
            range(line["cores"])
        )
        assert set(line["inference"]) == set(range(options.get("inferences", 1)))
        assert {len(line[c]) for c in ("start_ns", "busy_ns", "track", "layer", "op")} == {
            len(line["start_ns"])
        }

    def test_moved_bytes_are_those_of_the_curve(self, folder, options):
        found = document(folder, **options)
        curve, totals = found["dram"], found["totals"]
        moved = sum(curve["bytes_per_ns"]) * curve["bin_ns"]
        counted = totals["dram_read_bytes"] + totals["dram_write_bytes"]
        assert moved == pytest.approx(counted * found["cores"], rel=0.02)


class TestFiles:
    def test_a_report_is_read_as_it_was_written(self, folder):
        found, path = document(folder), folder / "a.json"
        path.write_text(to_text(found))
        assert load_report(str(path)) == json.loads(json.dumps(found)) == found

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("no json", "not a report, not even JSON: Expecting value"),
            ("\udcff", "not a report, not even JSON"),
            ("[1]", "not a report of polystage run"),
            ('{"format": "other"}', "not a report of polystage run"),
            (
                '{"format": "polystage-report", "version": 0}',
                "a report of version 0, but this program reads version 1",
            ),
        ],
    )
    def test_invalid_files(self, tmp_path, content, message):
        path = tmp_path / "bad.json"
        path.write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(PolystageError) as error:
            load_report(str(path))
        assert str(error.value).startswith(f"{path}: {message}")
        assert error.value.help == "write it with `polystage run MODEL --json FILE`"

    def test_no_file(self):
        with pytest.raises(PolystageError, match=r"cannot open 'no\.json': No such file"):
            load_report("no.json")

    def test_nothing_is_written_where_a_report_is_bad(self, folder, tmp_path):
        good, bad, page = folder / "good.json", tmp_path / "bad.json", tmp_path / "page.html"
        good.write_text(to_text(document(folder)))
        bad.write_text("{}")
        with pytest.raises(PolystageError, match="not a report"):
            report([str(good), str(bad)], str(page))
        with pytest.raises(PolystageError, match="cannot write"):
            report([str(good)], str(tmp_path / "no" / "page.html"))
        with pytest.raises(PolystageError, match="3 reports were given, but at most 2"):
            report([str(good)] * 3, str(page))
        assert [path.name for path in tmp_path.iterdir()] == ["bad.json"]


class Scripts(HTMLParser):
    """Collects the elements of a page and the content of its data."""

    def __init__(self):
        super().__init__()
        self.tags, self.data, self.inside = [], "", False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = ("id", "data") in attrs

    def handle_data(self, data):
        if self.inside:
            self.data += data

    def handle_endtag(self, tag):
        self.inside = False


class TestPage:
    def test_names_cannot_break_out(self, folder):
        found = document(folder, name=NASTY)
        parser = Scripts()
        parser.feed(report_page([found]))
        assert json.loads(parser.data)["runs"] == [found]
        assert parser.tags.count("script") == 2 and "img" not in parser.tags

    def test_nothing_comes_from_elsewhere(self, folder):
        page = report_page([document(folder)])
        for word in ("http://www.w3.org/2000/svg",):  # a name, not an address
            page = page.replace(word, "")
        for word in ("http:", "https:", "src=", "@import", "url(", "fetch(", "XMLHttpRequest"):
            assert word not in page, word


class TestTables:
    def test_the_summary_tells_of_losses_and_flow(self, folder):
        lines = "\n".join(summary(document(folder, inferences=3)))
        assert "from peak to " in lines and ": shape 1.000 x dataflow 0.9" in lines
        assert "3 inferences in " in lines and " in flight" in lines
        assert "on 2 cores; the table is of the first" in "\n".join(
            summary(document(folder, cores=2, inferences=2))
        )

    def test_changes_are_by_name_and_the_largest_comes_first(self, folder):
        before, after = document(folder), document(folder, slower=2.0)
        after["layers"][1]["name"] = "another"
        table = changes_table(before, after)
        columns = {str(c.header): list(c.cells) for c in table.columns}
        texts = zip(columns["before"], columns["after"], strict=True)
        deltas = [abs(float(b.replace("-", "0")) - float(a.replace("-", "0"))) for a, b in texts]
        assert len(deltas) == 3 and deltas == sorted(deltas, reverse=True)
        words = dict(zip(map(str, columns["layer"]), columns["change"], strict=True))
        assert (words["first"], words["another"], words["second"]) == ("+100.0 %", "new", "gone")

    def test_names_are_no_markup(self, folder, capsys):
        found = document(folder, name="[bold]layer[/]")
        print_report(found)
        print_comparison(found, found)
        assert capsys.readouterr().out.count("[bold]layer[/]") == 5

    def test_totals(self, folder):
        cells = list(totals_table(document(folder), document(folder)).columns[3].cells)
        assert cells == ["same"] * 7


def test_traces_are_json_with_a_process_per_core(folder):
    events = json.loads(finished_run(str(folder), cores=2, inferences=2).trace())["traceEvents"]
    assert {event["pid"] for event in events} == {0, 1}
    for core in (0, 1):
        by_thread = {}
        for event in events:
            if event["ph"] == "X" and event["pid"] == core:
                by_thread.setdefault(event["tid"], []).append((event["ts"], event["dur"]))
        assert len(by_thread) > 3
        for spans in by_thread.values():  # no two overlap, or viewers would nest them
            spans.sort()
            ends = [start + length for start, length in spans]
            assert all(a <= b[0] + 1e-6 for a, b in zip(ends, spans[1:], strict=False))
    arrows = [e["ph"] for e in events if e.get("cat") == "semaphore"]
    assert arrows.count("s") == arrows.count("f")


def test_files_are_written_before_anybody_stops_reading(folder, tmp_path, monkeypatch):
    path, page = tmp_path / "a.json", tmp_path / "page.html"
    path.write_text(to_text(document(folder)))

    def stop(_):
        raise BrokenPipeError

    monkeypatch.setattr("polystage.tools.report.print_report", stop)
    with pytest.raises(BrokenPipeError):
        report([str(path)], str(page))
    assert page.read_text().startswith("<!DOCTYPE html>")
