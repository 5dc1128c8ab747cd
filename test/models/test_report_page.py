"""The page of a whole model: small enough to be sent, and a browser shows it."""

import light_models as light
import onnx
import pytest

from polystage.report.html import report_page
from polystage.tools import run as runs

LARGEST_PAGE_BYTES = 5_000_000


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("resnet50") / "resnet50.onnx"
    onnx.save(light.with_random_weights(onnx.load(light.light_path("resnet50"))), path)
    return runs.run_model(
        str(path), [], None, runs.CompilerOptions(), runs.RunOptions(timing_only=True)
    )


def test_the_page_of_resnet50_is_small_and_opens(run, opened):
    assert len(report_page([run.document]).encode()) < LARGEST_PAGE_BYTES
    view = opened(run.document)
    layers = run.document["layers"]
    assert view.page.locator("#layers tbody tr").count() == len(layers) > 50
    for canvas in ("canvas.overview", "canvas.queues", "canvas.map"):
        assert view.colors(canvas) > 8
    arithmetic = [row for row in layers if row["macs"] or any(row["operations"].values())]
    moving = [row for row in arithmetic if row["dram_read_bytes"] + row["dram_write_bytes"]]
    assert view.page.locator("#roofline .dot").count() == len(moving) > 20
    bounded = f"{len(arithmetic) - len(moving)} layers move no bytes of DRAM"
    assert bounded in view.page.locator("#roofline").inner_text()
