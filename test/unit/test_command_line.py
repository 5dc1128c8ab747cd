"""Exit codes of the command line that lit cannot provoke."""

import re
import sys
from pathlib import Path

import pytest

from polystage.report.check import Check
from polystage.simulator import simulate
from polystage.tools import polystage, polystage_opt
from polystage.tools import run as runs

sys.path.append(str(Path(__file__).parents[1] / "tools" / "Inputs"))
import make_models


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_models.main(folder)
    return folder


def wrong(program, inputs, **options):
    result = simulate(program, inputs, **options)
    result.outputs["y"][0, 0] += 1
    return result


def test_a_failed_check_is_exit_code_2(models, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(runs, "simulate", wrong)
    report = tmp_path / "report.json"
    model = str(models / "good.onnx")
    assert polystage.main(["run", model, "--target", "tiny", "--json", str(report)]) == 2
    assert "check against onnxruntime FAILED: largest relative error" in capsys.readouterr().out
    assert '"passed": false' in report.read_text()


def test_success_is_exit_code_0(models, capsys):
    assert polystage.main(["run", str(models / "good.onnx"), "--target", "tiny"]) == 0
    assert capsys.readouterr().err == ""  # no progress where nobody looks


@pytest.mark.parametrize("arguments", [["fly"], ["run"], ["run", "x.onnx", "--seed", "one"]])
def test_a_wrong_command_line_is_exit_code_1(arguments, capsys):
    assert polystage.main(arguments) == 1
    assert "polystage: error:" in capsys.readouterr().err


def test_a_check_without_numbers_did_not_fail():
    run = runs.Run(None, None, "f32", None, runs.TIMING_ONLY, {})  # type: ignore[arg-type]
    assert not run.failed()
    assert runs.Run(None, None, "f32", None, Check("jit", 1.0, 1.0, 0.1), {}).failed()  # type: ignore[arg-type]


def test_user_pipelines_say_their_arithmetic():
    def dtype(pipeline, chosen=None):
        return runs.CompilerOptions("tiny", (), chosen, pipeline=pipeline).resolved_dtype()

    assert dtype("") == "f32"
    assert dtype("builtin.module(cse,npu-set-float-type{type=bf16})") == "bf16"
    assert dtype("builtin.module(cse)") == "f32"
    assert dtype("builtin.module(cse)", "f16") == "f16"


@pytest.mark.parametrize(("choice", "words"), [("python", "without compiled core"), ("", "core")])
def test_the_version_tells_of_the_compiled_core(choice, words, capsys, monkeypatch):
    monkeypatch.setenv("POLYSTAGE_CORE", choice)
    assert polystage.main(["--version"]) == 0
    assert re.match(rf"polystage, version \d+\.\d+\.\d+, .*{words}\n$", capsys.readouterr().out)


def test_targets(capsys):
    assert polystage.main(["targets"]) == 0
    assert polystage.main(["targets", "tiny"]) == 0
    out = capsys.readouterr().out
    assert "neuroncore_v2    24576 KiB" in out
    assert "sbuf.partitions                      8 partitions" in out


def test_check_semantics_finds_a_pass_that_changes_a_result(tmp_path, capsys):
    (tmp_path / "model.mlir").write_text(
        "func.func @main(%a: tensor<4xf32>, %b: tensor<4xf32>) -> tensor<4xf32> {\n"
        "  %0 = tensor.empty() : tensor<4xf32>\n"
        "  %1 = linalg.sub ins(%a, %b : tensor<4xf32>, tensor<4xf32>)"
        " outs(%0 : tensor<4xf32>) -> tensor<4xf32>\n"
        "  return %1 : tensor<4xf32>\n}\n"
    )
    (tmp_path / "swap.py").write_text(
        "import polystage as ps\n"
        "from polystage.forms import walk\n"
        "@ps.register_pass\n"
        "def swap_operands(module):\n"
        "    for op in walk(module.operation):\n"
        "        if op.name == 'arith.subf':\n"
        "            op.operands[0], op.operands[1] = op.operands[1], op.operands[0]\n"
    )
    command = [
        str(tmp_path / "model.mlir"),
        f"--load={tmp_path / 'swap.py'}",
        "--check-semantics",
        "--linalg-generalize-named-ops",
    ]
    assert polystage_opt.main(command) == 0
    assert polystage_opt.main([*command, "--swap-operands"]) == 1
    error = capsys.readouterr().err
    assert "error: swap-operands: changed what the module computes: relative error" in error
