"""Print the lowest versions that pyproject.toml allows, as pip takes them."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
found = [*project["dependencies"], *(r for name in sys.argv[1:] for r in extras[name])]
print(*(re.sub(r"^([\w-]+)>=([\w.]+).*$", r"\1==\2", r) for r in found))
