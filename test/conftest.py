"""What tests of several folders start from."""

import shutil

import pytest

from polystage.dialects import npu
from polystage.mlir import ir
from polystage.report.html import report_page

SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def npu_context():
    """Let a test build IR, our dialect included, without naming a context or a location."""
    with ir.Context() as context, ir.Location.unknown():
        npu.load(context)
        yield


@pytest.fixture(scope="module")
def browser():
    """Start Chromium without a window; skip where it cannot be."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium is installed: apt-get install chromium")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium, args=SWITCHES)
        yield running
        running.close()


class Opened:
    """A page in the browser, and what it complained about or asked for."""

    def __init__(self, browser, path, documents, **context):
        path.write_text(report_page(documents), encoding="utf-8")
        self.complaints, self.requests = [], []
        self.page = browser.new_context(**context).new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def click(self, selector, text):
        self.page.locator(selector, has_text=text).first.click()

    def colors(self, selector):
        """Return how many colours a canvas shows."""
        return self.page.eval_on_selector(
            selector,
            """canvas => {
                const {width, height} = canvas;
                const pixels = new Uint32Array(
                    canvas.getContext("2d").getImageData(0, 0, width, height).data.buffer);
                return new Set(pixels).size;
            }""",
        )

    def pixels(self, selector):
        return self.page.eval_on_selector(selector, "canvas => canvas.toDataURL()")


@pytest.fixture
def opened(browser, tmp_path):
    """Open the page of reports; it must not complain, nor ask for anything."""

    def open_page(*documents, **context):
        options = {"viewport": {"width": 1200, "height": 900}, **context}
        pages.append(Opened(browser, tmp_path / f"{len(pages)}.html", documents, **options))
        return pages[-1]

    pages = []
    yield open_page
    for page in pages:
        assert page.complaints == []
        assert [u for u in page.requests if not u.startswith(("file:", "data:"))] == []
        page.page.context.close()
