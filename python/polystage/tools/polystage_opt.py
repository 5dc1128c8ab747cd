"""polystage-opt: run passes on MLIR text, with mlir-opt's habits."""

import importlib.util
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from polystage.dialects import npu
from polystage.errors import PipelineError, PolystageError
from polystage.mlir import ir
from polystage.passes.registry import PASSES
from polystage.pipeline import PassRecord, run_pipeline
from polystage.pipeline_syntax import MODULE, Nest, parse_pipeline, runs_on
from polystage.tools import opt_help
from polystage.tools.diagnostics import Collector, Diagnostic, mismatches, source_excerpt
from polystage.tools.opt_reports import statistics_report, timing_report
from polystage.tools.output import write_atomically

if TYPE_CHECKING:
    from polystage.tools.semantics import SemanticsCheck

SPLIT_MARKER = re.compile(r"^// -----.*\n?", re.MULTILINE)


@dataclass
class Options:
    """The command line; every field is a flag with hyphens for underscores."""

    input: str = "-"
    """The file to read, `-` for standard input."""
    o: str = "-"
    """The file to write, whole or not at all; `-` for standard output."""
    pass_pipeline: str = ""
    """A textual pipeline, e.g. `builtin.module(canonicalize,npu-attach-target{target=tiny})`."""
    load: list[str] = field(default_factory=list[str])
    """A Python file that registers further passes; may be given several times."""
    split_input_file: bool = False
    """Process the pieces between `// -----` lines one by one."""
    verify_diagnostics: bool = False
    """Compare what is reported with `expected-error@+1 {{text}}` comments, and print no IR."""
    remarks: bool = False
    """Report what our passes did, and declined to do and why."""
    check_semantics: bool = False
    """Execute the module on random inputs before and after each pass, and compare."""
    verify_each: bool = True
    """Verify the module after each pass; `--verify-each=false` does not."""
    mlir_print_ir_after_all: bool = False
    """Print the IR after each pass, on standard error."""
    mlir_timing: bool = False
    """Print the time that each pass took, on standard error."""
    mlir_pass_statistics: bool = False
    """Print what each of our passes counted, on standard error."""
    mlir_print_op_generic: bool = False
    """Print operations in their generic form."""
    mlir_print_debuginfo: bool = False
    """Print locations."""
    mlir_elide_elementsattrs_if_larger: int = -1
    """Print constants with more elements than this as `...`."""
    allow_unregistered_dialect: bool = False
    """Accept operations of dialects that nobody knows."""
    print_polyhedral_model: bool = False
    """Print the statements, domains and accesses of the result instead of the IR."""
    emit_irdl: str = ""
    """Print our dialect of this name as IRDL, for `mlir-opt --irdl-file=`, and stop."""
    show_dialects: bool = False
    """Print the names of the dialects that can be read, and stop."""
    version: bool = False
    """Print the version, and stop."""
    help: bool = False
    """Print this, and stop."""


class UsageError(PolystageError):
    """The command line is wrong."""


def main(arguments: list[str] | None = None) -> int:
    """Run the tool and return its exit code."""
    argv = sys.argv[1:] if arguments is None else arguments
    try:
        return _main(argv)
    except PipelineError as error:
        _print_error(error.location, error)
    except PolystageError as error:
        _print_error("polystage-opt", error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _print_error(place: str, error: PolystageError) -> None:
    remedy = f"\nhelp: {error.help}" if error.help else ""
    print(f"{place}: error: {error.message}{remedy}", file=sys.stderr)


def _main(argv: list[str]) -> int:
    _load_user_passes(argv)
    options, flags = parse_command_line(argv)
    if text := _information(options):
        write(options.o, text)
        return 0
    pipeline = _pipeline(options, flags)
    source = _read(options.input)
    pieces = _split(source) if options.split_input_file else [source]
    runs = [Run(options, pipeline, piece) for piece in pieces]
    succeeded = [run.execute() for run in runs]
    if not all(succeeded):
        return 1
    if not options.verify_diagnostics:
        write(options.o, b"// -----\n".join(run.output for run in runs))
    return 0


def _load_user_passes(argv: list[str]) -> None:
    """Import the files of `--load` first, since the other flags may name their passes."""
    for index, argument in enumerate(argv):
        name, _, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "load":
            load_file(value or "".join(argv[index + 1 : index + 2]))


def load_file(path: str) -> None:
    """Import a Python file, which registers passes by `@ps.register_pass`."""
    if not Path(path).is_file():
        raise UsageError(f"cannot load '{path}': no such file")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"cannot load '{path}': not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"cannot load '{path}': {type(error).__name__}: {error}") from error


def parse_command_line(argv: list[str]) -> tuple[Options, list[str]]:
    """Return the options, and the pass flags in their order as elements of a pipeline."""
    options, flags = Options(), list[str]()
    inputs: list[str] = []
    remaining = list(argv)
    while remaining:
        argument = remaining.pop(0)
        if not argument.startswith("-") or argument == "-":
            inputs.append(argument)
            continue
        name, has_value, value = argument.lstrip("-").partition("=")
        attribute = name.replace("-", "_")
        if attribute == "input" or not hasattr(options, attribute):
            flags.append(_pass_flag(argument, name, value))
        elif isinstance(getattr(options, attribute), bool):
            setattr(options, attribute, value.lower() not in ("0", "false"))
        else:
            if not has_value and not remaining:
                raise UsageError(f"option '{argument}' needs a value")
            _set(options, attribute, value if has_value else remaining.pop(0))
    if len(inputs) > 1:
        raise UsageError(f"one input file at most, but found '{inputs[0]}' and '{inputs[1]}'")
    options.input = inputs[0] if inputs else "-"
    return options, flags


def _set(options: Options, attribute: str, value: str) -> None:
    present = getattr(options, attribute)
    if isinstance(present, list):
        options.load.append(value)
    elif isinstance(present, int):
        if not value.lstrip("-").isdigit():
            flag = attribute.replace("_", "-")
            raise UsageError(f"option '--{flag}' is '{value}', but it takes an integer")
        setattr(options, attribute, int(value))
    else:
        setattr(options, attribute, value)


def _pass_flag(argument: str, name: str, options_text: str) -> str:
    """Return a pass given as a flag as an element of a pipeline."""
    element = f"{name}{{{options_text}}}" if options_text else name
    if name in PASSES:
        return element
    if runs_on(name, MODULE):
        known = _is_known(name)
        if not known:
            raise UsageError(f"unknown option or pass '{argument}'", help="see --help")
        return element
    return f"func.func({element})"


def _is_known(name: str) -> bool:
    try:
        parse_pipeline(f"{MODULE}({name})")
    except PipelineError as error:
        return "unknown pass" not in error.message
    return True


def _information(options: Options) -> str:
    """Return the text that a flag such as `--help` asks for instead of a run."""
    if options.help:
        return opt_help.help_text(Options)
    if options.version:
        return opt_help.version_text()
    if options.show_dialects:
        return opt_help.dialects_text()
    if options.emit_irdl == "npu":
        return npu.irdl_text()
    if options.emit_irdl:
        raise UsageError(f"there is no dialect '{options.emit_irdl}' here", help="dialects: npu")
    return ""


def _pipeline(options: Options, flags: list[str]) -> Nest:
    if options.pass_pipeline and flags:
        raise UsageError(f"'--pass-pipeline' and '--{flags[0]}' exclude each other")
    return parse_pipeline(options.pass_pipeline or f"{MODULE}({','.join(flags)})")


def _read(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot open '{path}': {error.strerror}") from None


def _split(source: bytes) -> list[bytes]:
    """Return the pieces between marker lines, each moved down to its line in the file."""
    text = source.decode(errors="replace")
    pieces: list[bytes] = []
    start = 0
    for end, following in [(m.start(), m.end()) for m in SPLIT_MARKER.finditer(text)] + [
        (len(text), 0)
    ]:
        lines_before = text.count("\n", 0, start)
        pieces.append(("\n" * lines_before + text[start:end]).encode())
        start = following
    return pieces


def write(path: str, content: str | bytes) -> None:
    """Write to a file, whole or not at all, or to standard output."""
    data = content.encode() if isinstance(content, str) else content
    if path == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    else:
        write_atomically(path, data)


class Run:
    """One piece of input on its way through the pipeline."""

    def __init__(self, options: Options, pipeline: Nest, source: bytes) -> None:
        self.options = options
        self.pipeline = pipeline
        self.source = source
        self.output = b""
        self.collector = Collector()
        self.semantics: SemanticsCheck | None = None

    def execute(self) -> bool:
        """Fill `output`, report what there is to report, and return whether all went well."""
        with ir.Context() as context, ir.Location.unknown():
            context.allow_unregistered_dialects = self.options.allow_unregistered_dialect
            self.collector.attach(context)
            npu.load(context)
            try:
                self.output = self._process()
            except PolystageError as error:
                self.collector.add_error(error)
        return self._report()

    def _process(self) -> bytes:
        try:
            module = ir.Module.parse(self.source)
        except ir.MLIRError as error:
            raise PolystageError(error.message) from error
        if self.options.check_semantics:
            from polystage.tools.semantics import SemanticsCheck  # lazy: start-up time

            self.semantics = SemanticsCheck()
        records = run_pipeline(
            module,
            self.pipeline,
            verify_each=self.options.verify_each,
            before_pass=self._before_pass,
            after_pass=self._after_pass,
        )
        self._report_records(records)
        return self._render(module).encode()

    def _before_pass(self, name: str, module: ir.Module) -> None:
        if self.semantics:
            self.semantics.before_pass(name, module)

    def _after_pass(self, name: str, module: ir.Module) -> None:
        if self.semantics:
            self.semantics.after_pass(name, module)
        if self.options.mlir_print_ir_after_all:
            print(f"// -----// IR Dump After {name} //----- //", file=sys.stderr)
            asm = module.operation.get_asm(large_elements_limit=16, large_resource_limit=64)
            print(asm, file=sys.stderr, flush=True)

    def _report_records(self, records: list[PassRecord]) -> None:
        if self.options.remarks:
            for remark in (remark for record in records for remark in record.remarks):
                text = f"{remark.pass_name}: {remark.text}"
                self.collector.add("remark", text, remark.location)
        if self.options.mlir_timing:
            sys.stderr.write(timing_report(records))
        if self.options.mlir_pass_statistics:
            sys.stderr.write(statistics_report(records))

    def _render(self, module: ir.Module) -> str:
        if self.options.print_polyhedral_model:
            from polystage.polyhedral import TensorProgram, print_program  # lazy: start-up time

            return print_program(TensorProgram.from_module(module))
        limit = self.options.mlir_elide_elementsattrs_if_larger
        text = module.operation.get_asm(
            large_elements_limit=limit if limit >= 0 else None,
            large_resource_limit=limit if limit >= 0 else None,
            print_generic_op_form=self.options.mlir_print_op_generic,
            enable_debug_info=self.options.mlir_print_debuginfo,
        )
        return text if text.endswith("\n") else text + "\n"

    def _report(self) -> bool:
        """Print the diagnostics, or in the verifying mode what is wrong with them."""
        source = self.source.decode(errors="replace")
        found = self.collector.diagnostics
        if self.options.verify_diagnostics:
            problems = mismatches(source, found)
            self._print(problems, source)
            return not problems
        self._print(found, source)
        return not self.collector.has_errors()

    def _print(self, diagnostics: list[Diagnostic], source: str) -> None:
        file = "<stdin>" if self.options.input == "-" else self.options.input
        for diagnostic in diagnostics:
            print(diagnostic.render(file), file=sys.stderr)
            if excerpt := source_excerpt(diagnostic, source):
                print(excerpt, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
