"""The ONNX backend node tests through the whole chain: passed, declined with a reason, failed.

Selected are the cases of `onnx.backend.test` (kind `node`, function expansions included) whose
inputs and outputs are all tensors of declared static shape, of the types float32, float16,
bfloat16, int8, uint8, int32, int64 and bool, at least one of them a float or an 8-bit integer.
Where ONNX shape inference cannot find the shape of an output without the value of an input (the
target shape of a Reshape, the axes of a ReduceSum), the int64 inputs of rank 0 and 1 are given as
constants, as exported models have them. What was not selected is counted by reason.

Every case is imported, compiled for a target in f32 arithmetic and simulated, in a process apart:
if it dies or exceeds its time, the case has failed. A case passes if every output has the
expected shape, type and, within the case's own tolerances (rtol 1e-3, atol 1e-7 for all), values;
for bfloat16 rtol is two units in the last place as in ONNX's own runner, and so it is for float16.
It is declined if a frontend or a pass refused it with a message of its own; anything else is a
failure.

Exit code 1 if a case failed or fewer than 60 % passed.

    python benchmarks/onnx_node_tests.py [--list] [--filter REGEX] [--target flat --set KEY=VALUE]
"""

import argparse
import multiprocessing
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, shape_inference

DATA_TYPES = {"FLOAT", "FLOAT16", "BFLOAT16", "INT8", "UINT8"}
OTHER_TYPES = {"INT32", "INT64", "BOOL"}
WANTED_SHARE = 0.6
RTOL = {"bfloat16": 2.0**-6, "float16": 2.0**-9}


@dataclass(frozen=True)
class Case:
    """A selected test case, ready to run."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    rtol: float
    atol: float
    has_constants: bool


@dataclass(frozen=True)
class Chain:
    """How far cases go, and for what they are compiled."""

    stage: str = "run"
    target: str = "neuroncore_v2"
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    status: str
    reason: str = ""
    seconds: float = 0.0


@dataclass
class Selection:
    """The cases to run, and how many were left out for which reason."""

    cases: list[Case] = field(default_factory=list[Case])
    left_out: Counter[str] = field(default_factory=Counter[str])


def select(tests: Iterable[Any]) -> Selection:
    selection = Selection()
    for test in tests:
        reason = reason_to_leave_out(test.model.graph)
        if reason:
            selection.left_out[reason] += 1
        else:
            selection.cases.append(prepare(test))
    return selection


def reason_to_leave_out(graph: onnx.GraphProto) -> str:
    values = [*graph.input, *graph.output]
    if any(v.type.WhichOneof("value") != "tensor_type" for v in values):
        return "sequences, optionals or maps"
    types = {TensorProto.DataType.Name(v.type.tensor_type.elem_type) for v in values}
    if types - DATA_TYPES - OTHER_TYPES:
        return "other types (double, strings, wider or narrower integers, float8, complex)"
    if not types & DATA_TYPES:
        return "only int32, int64 or bool"
    return "" if all(is_static(v) for v in values) else "dynamic shapes"


def is_static(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim)


def prepare(test: Any) -> Case:
    arrays, expected = ([to_array(v) for v in values] for values in test.data_sets[0])
    model = onnx.ModelProto()
    model.CopyFrom(test.model)
    inputs = dict(zip((i.name for i in model.graph.input), arrays, strict=True))
    outputs = dict(zip((o.name for o in model.graph.output), expected, strict=True))
    has_constants = not output_shapes_follow(model) and give_constants(model, inputs)
    return Case(test.name, model, inputs, outputs, test.rtol, test.atol, has_constants)


def to_array(value: Any) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def output_shapes_follow(model: onnx.ModelProto) -> bool:
    """Return whether the output shapes follow from the input shapes alone."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = shape_inference.infer_shapes(bare, data_prop=True)
    except shape_inference.InferenceError:
        return False
    return all(is_static(output) for output in inferred.graph.output)


def give_constants(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> bool:
    """Turn small int64 inputs into initializers, in the model and out of `inputs`."""
    graph = model.graph
    small = [i for i in graph.input if _is_small_index(inputs[i.name])]
    for value in small:
        graph.initializer.append(numpy_helper.from_array(inputs.pop(value.name), value.name))
        graph.input.remove(value)
    return bool(small)


def _is_small_index(array: np.ndarray) -> bool:
    return array.dtype == np.int64 and array.ndim <= 1


def run_case(case: Case, chain: Chain) -> Outcome:
    from polystage.errors import FrontendError, PassError
    from polystage.mlir import ir

    try:
        problem = execute(case, chain)
    except (FrontendError, PassError) as error:
        if isinstance(error.__cause__, ir.MLIRError):  # upstream choked on what we made
            return Outcome("failed", f"{type(error).__name__}: {error.message}")
        return Outcome("declined", error.message)
    except Exception as error:
        return Outcome("failed", f"{type(error).__name__}: {error}")
    return Outcome("failed", problem) if problem else Outcome("passed")


def execute(case: Case, chain: Chain) -> str:
    """Return what is wrong with the outputs, or nothing."""
    import polystage as ps

    model = ps.load(case.model)
    if chain.stage == "import":
        return ""
    program = ps.compile(model.module, target=chain.target, settings=chain.settings, dtype="f32")
    if chain.stage == "compile":
        return ""
    result = ps.simulate(program, case.inputs)
    wrong = (difference(name, result.outputs, case) for name in case.outputs)
    return next((w for w in wrong if w), "")


def difference(name: str, outputs: dict[str, np.ndarray], case: Case) -> str:
    expected = case.outputs[name]
    actual = outputs[name]
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        found = f"{actual.dtype}{list(actual.shape)}"
        return f"'{name}' is {found}, expected {expected.dtype}{list(expected.shape)}"
    wide = [a.astype(np.float64) for a in (actual, expected)]
    rtol = max(case.rtol, RTOL.get(expected.dtype.name, 0.0))
    close = np.isclose(*wide, rtol=rtol, atol=case.atol, equal_nan=True)
    if close.all():
        return ""
    with np.errstate(invalid="ignore"):
        worst = np.abs(wide[0] - wide[1])[~close].max()
    return f"{np.count_nonzero(~close)} of {close.size} values differ, by up to {worst:.3g}"


class Worker:
    """A process that runs one case at a time."""

    def __init__(self, cases: Sequence[Case], chain: Chain) -> None:
        self.case = -1
        self.started = 0.0
        self.connection, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(
            target=serve, args=(theirs, cases, chain), daemon=True
        )
        self.process.start()
        theirs.close()

    def give(self, case: int) -> None:
        """Start on a case."""
        self.case, self.started = case, time.perf_counter()
        self.connection.send(case)

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def serve(connection: Connection, cases: Sequence[Case], chain: Chain) -> None:
    warnings.simplefilter("ignore")
    while True:
        try:
            case = cases[connection.recv()]
        except EOFError:
            return
        start = time.perf_counter()
        done = run_case(case, chain)
        connection.send(Outcome(done.status, done.reason, time.perf_counter() - start))


def run_all(
    cases: Sequence[Case], chain: Chain, jobs: int, timeout: float
) -> Iterator[tuple[Case, Outcome]]:
    """Yield every case with its outcome, as they finish."""
    waiting = iter(range(len(cases)))
    busy: list[Worker] = []
    free = [Worker(cases, chain) for _ in range(jobs)]
    while True:
        while free and (case := next(waiting, None)) is not None:
            busy.append(free.pop())
            busy[-1].give(case)
        if not busy:
            break
        wait([w.connection for w in busy], timeout=1.0)
        for worker in list(busy):
            outcome = outcome_of(worker, timeout)
            if outcome is None:
                continue
            busy.remove(worker)
            yield cases[worker.case], outcome
            if worker.process.is_alive():
                free.append(worker)
            else:
                free.append(Worker(cases, chain))
    for worker in free:
        worker.end()


def outcome_of(worker: Worker, timeout: float) -> Outcome | None:
    """Return the outcome if there is one by now; a worker that hangs is ended."""
    seconds = time.perf_counter() - worker.started
    if worker.connection.poll():
        try:
            return worker.connection.recv()
        except EOFError:
            worker.process.join()
            code = worker.process.exitcode
            worker.end()
            return Outcome("failed", f"crashed with exit code {code}", seconds)
    if seconds > timeout:
        worker.end()
        return Outcome("failed", f"took more than {timeout:.0f} s", seconds)
    return None


def kind_of(reason: str) -> str:
    """Return a reason without what is particular to one case."""
    reason = reason.removeprefix("model: ").splitlines()[0]
    reason = re.sub(r"^at '[^']*': ", "", reason)
    reason = re.sub(r" on (\w+\[[^\]]*\](, )?)+", "", reason)
    reason = re.sub(r"\b(si|ui|[if])?\d+(\.\d+)?(e[+-]?\d+)?\b(?!')", "#", reason)
    return re.sub(r"#((, |x|\])#)+", "#", reason)[:150]


def print_summary(selection: Selection, outcomes: Sequence[Outcome], seconds: float) -> None:
    count = Counter(o.status for o in outcomes)
    total = len(outcomes)
    for reason, number in selection.left_out.most_common():
        print(f"not selected: {number:5}  {reason}")
    constants = sum(c.has_constants for c in selection.cases)
    print(f"selected:     {total:5}  ({constants} with small int64 inputs as constants)\n")
    for status in ("declined", "failed"):
        kinds = Counter(kind_of(o.reason) for o in outcomes if o.status == status)
        for kind, number in kinds.most_common():
            print(f"{status}: {number:5}  {kind}")
    for status in ("passed", "declined", "failed"):
        print(f"{status:9} {count[status]:5}  {100 * count[status] / max(total, 1):5.1f} %")
    print(f"in {seconds:.0f} s")


def load_tests() -> list[Any]:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_model_tests(kind="node")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print every case and its outcome")
    parser.add_argument("--filter", default="", metavar="REGEX", help="only cases of such a name")
    parser.add_argument("--stage", default="run", choices=["import", "compile", "run"])
    parser.add_argument("--target", default="neuroncore_v2")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=60, help="seconds per case")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    selection = select(t for t in load_tests() if re.search(arguments.filter, t.name))
    start = time.perf_counter()
    outcomes: list[Outcome] = []
    chain = Chain(arguments.stage, arguments.target, tuple(arguments.set))
    for case, outcome in run_all(selection.cases, chain, arguments.jobs, arguments.timeout):
        outcomes.append(outcome)
        if arguments.list:
            print(f"{outcome.status:9} {outcome.seconds:6.2f} s  {case.name}  {outcome.reason}")
        elif sys.stderr.isatty():
            print(f"\r{len(outcomes)} of {len(selection.cases)}", end="", file=sys.stderr)
    print_summary(selection, outcomes, time.perf_counter() - start)
    passed = sum(o.status == "passed" for o in outcomes)
    failed = sum(o.status == "failed" for o in outcomes)
    return 1 if failed or passed < WANTED_SHARE * len(outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
