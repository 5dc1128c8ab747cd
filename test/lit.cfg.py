"""lit's configuration: `lit -sv test`, with the interpreter that runs lit."""

import os
import sys

import lit.formats

config.name = "polystage"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir", ".test"]
config.excludes = ["unit", "semantics", "models", "Inputs"]
config.test_source_root = os.path.dirname(__file__)
config.test_exec_root = os.path.join(config.test_source_root, "..", "build", "lit")

python = sys.executable
config.substitutions += [
    ("%{python}", python),
    ("%polystage-opt", f"{python} -m polystage.tools.polystage_opt"),
    ("%polystage", f"{python} -m polystage.tools.polystage"),
]
bin_directories = [os.path.dirname(python), os.environ["PATH"]]
config.environment["PATH"] = os.pathsep.join(bin_directories)
for variable in ("PYTHONPATH", "HOME"):
    if variable in os.environ:
        config.environment[variable] = os.environ[variable]
