"""The page in a real browser: no errors, no requests, every chart drawn, every control works."""

import pytest
from report_documents import NASTY, document


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reports")


def test_every_chart_has_content(opened, folder):
    view = opened(document(folder, apart=True))
    page = view.page
    titles = page.locator("h2").all_text_contents()
    assert titles[:6] == [
        "From peak to achieved",
        "Bytes by cause",
        "Energy by level",
        "Roofline",
        "Layer by layer",
        "Timeline",
    ]
    assert page.locator("h1").text_content() == "good"
    assert page.locator(".tile").count() == 6
    assert "NaN" not in page.locator("body").inner_text()
    assert "undefined" not in page.locator("body").inner_text()
    assert page.locator("#losses .track").count() == 9
    assert page.locator("#roofline .dot").count() == 3
    assert page.locator("#roofline .roof").count() >= 5
    assert page.locator("#layers tbody tr").count() == 3
    assert page.locator("#bytes .stack i").count() > 2
    assert page.locator("#energy .stack i").count() > 2
    for canvas in ("canvas.overview", "canvas.queues", "#memory canvas >> nth=0"):
        assert page.locator(canvas).count() == 1
    for canvas in ("canvas.overview", "canvas.queues", "canvas.map"):
        assert view.colors(canvas) > 5, canvas


def test_dots_lie_under_the_roofs(opened, folder):
    page = opened(document(folder)).page
    peak = float(page.locator("#roofline .roof").nth(2).get_attribute("y1"))
    for dot in page.locator("#roofline .dot").all():
        assert float(dot.get_attribute("cy")) >= peak


def test_the_theme_follows_the_system_until_it_is_chosen(opened, folder):
    view = opened(document(folder), color_scheme="dark")
    page = view.page

    def ground():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark, drawn = ground(), view.pixels("canvas.queues")
    page.click("#theme")
    assert ground() != dark and view.pixels("canvas.queues") != drawn
    page.click("#theme")
    assert ground() == dark and view.pixels("canvas.queues") == drawn
    page.emulate_media(color_scheme="light")
    assert ground() == dark
    assert (
        opened(document(folder), color_scheme="light").page.locator("#theme").inner_text() == "Dark"
    )


def test_the_table_sorts_filters_and_changes_columns(opened, folder):
    view = opened(document(folder, apart=True))
    page = view.page

    def names():
        return page.locator("#layers tbody td.name").all_text_contents()

    assert names() == ["first", "relu", "second"]
    page.locator("#layers thead th").nth(2).click()
    assert names() == ["first", "second", "relu"]
    page.locator("#layers thead th").nth(2).click()
    assert names() == ["relu", "second", "first"]
    for group in ("engines", "bytes", "energy", "losses", "time"):
        view.click("#layers button", group)
        assert page.locator("#layers tfoot td").nth(1).text_content() == "total"
        assert "NaN" not in page.locator("#layers").inner_text()
    page.fill("#layers input", "SEC")
    assert names() == ["second"]


def test_the_controls_of_charts(opened, folder):
    view = opened(document(folder, apart=True))
    page = view.page
    view.click("#roofline button", "scratchpad")
    assert "op/B" not in page.locator("#roofline-chart").inner_text()
    assert page.locator("#roofline .dot").count() == 3
    for measure in ("DRAM bytes by cause", "energy by level", "busy time by engine", "latency"):
        view.click("#bars button", measure)
        assert page.locator("#bars .stack i").count() >= 3, measure
    view.click("#bars button", "program order")
    assert page.locator("#bars .label").all_text_contents() == ["first", "relu", "second"]
    page.select_option("#losses select", label="second")
    assert "under way for this layer" in page.locator("#losses").inner_text()


def test_the_timeline_zooms_and_the_memory_map_follows(opened, folder):
    view = opened(document(folder))
    page = view.page
    whole, map_whole = view.pixels("canvas.queues"), view.pixels("canvas.map")
    page.locator("#timeline button", has_text="+").click()
    closer = view.pixels("canvas.queues")
    assert closer != whole and view.pixels("canvas.map") != map_whole
    page.locator("canvas.queues").focus()
    page.keyboard.press("ArrowRight")
    assert view.pixels("canvas.queues") != closer
    view.click("#timeline button", "Whole run")
    assert view.pixels("canvas.queues") == whole
    page.select_option("#timeline select", label="second")
    assert view.pixels("canvas.queues") != whole
    box = page.locator("canvas.overview").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 10)
    page.mouse.up()
    assert view.pixels("canvas.queues") not in (whole, closer)


def test_pointing_explains(opened, folder):
    page = opened(document(folder)).page
    page.locator("#roofline .dot").first.hover()
    assert "intensity" in page.locator("#tip").inner_text()
    page.locator("canvas.queues").scroll_into_view_if_needed()
    box = page.locator("canvas.queues").bounding_box()
    page.mouse.move(box["x"] + 90 + 0.2 * (box["width"] - 98), box["y"] + 34)
    assert "bound" in page.locator("#tip").inner_text()
    assert page.locator("#tip").evaluate("tip => tip.style.visibility") == "visible"


def test_two_runs_are_compared(opened, folder):
    view = opened(document(folder), document(folder, slower=1.5))
    page = view.page
    assert page.locator("h2").first.text_content() == "What changed"
    assert "+50.0 %" in page.locator("#compare tfoot").inner_text()
    assert "+50.0 %" in page.locator(".tiles").inner_text()
    assert page.locator("#compare tbody tr").count() == 2
    assert page.locator("#roofline .dot").count() == 4
    assert page.locator("#losses .track").count() == 18
    drawn = view.pixels("canvas.queues")
    view.click("#timeline button", "before")
    assert view.pixels("canvas.queues") == drawn  # the course is the same, only latencies differ


def test_names_of_the_model_are_only_text(opened, folder):
    page = opened(document(folder, name=NASTY)).page
    assert page.locator("h1").text_content() == NASTY
    assert page.locator("img").count() == 0
    assert page.locator("#layers tbody td.name").first.get_attribute("title") == NASTY


@pytest.mark.parametrize("width", [1600, 1000, 700])
def test_nothing_is_wider_than_the_window(opened, folder, width):
    page = opened(document(folder), viewport={"width": width, "height": 800}).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.eval_on_selector_all(
        "svg text",
        """texts => texts.filter(text => {
            const box = text.getBoundingClientRect();
            const chart = text.closest("section").getBoundingClientRect();
            return box.left < chart.left || box.right > chart.right;
        }).map(text => text.textContent)""",
    )
    assert outside == []


def test_several_cores_and_inferences(opened, folder):
    page = opened(document(folder, cores=2, inferences=2)).page
    assert "in flight" in page.locator("body").inner_text()
    assert page.locator("canvas.map").count() == 4
