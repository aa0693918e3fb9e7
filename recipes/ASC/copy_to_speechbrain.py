#!/usr/bin/env python3
"""Copies the recipe into a checkout of SpeechBrain.

    python copy_to_speechbrain.py path/to/speechbrain

It comes to stand in recipes/ASC/classification, registered in tests/recipes,
so that SpeechBrain's own tests of its recipes' consistency pass.  The checkout
has to be one from git: the source distribution on PyPI lacks these tests.

Copied are the scripts and YAML files of the table tests/recipes/ASC.csv and
what these scripts import; the package ascmamba stays a requirement.  train.py
takes in the modules with its steps, because SpeechBrain looks for all settings
of a YAML file in one script.
"""

import argparse
import ast
import re
import sys
from pathlib import Path

import pandas as pd
from stages import RECIPE, one_line_at_the_end

from ascmamba_modules.utils.files import replacing

TABLE = "tests/recipes/ASC.csv"
TARGET = "recipes/ASC/classification/"
NEEDED = ("speechbrain", "recipes", "tests/recipes", "tests/consistency")
STEPS = ("training", "distillation")  # what train.py is joined with
LOGGER = "logger = get_logger(__name__)"
INSTALLING = """## Installing

```bash
pip install -r extra_requirements.txt
```

Pages named docs/... are those of the package.

"""


def copy_recipe(checkout):
    """Copies the recipe into a checkout; gives the files that were written,
    relative to it."""
    for name in NEEDED:
        if not Path(checkout, name).is_dir():
            raise ValueError(
                f"{checkout} is no checkout of SpeechBrain from git: it has no "
                f"folder {name}"
            )
    texts = make_copy()
    for name, text in texts.items():
        with replacing(Path(checkout, name)) as temporary:
            temporary.write_text(text, "utf-8")
    return list(texts)


def make_copy():
    """Makes the text of each file of the copy, by its path in the checkout."""
    table = pd.read_csv(
        RECIPE.parents[1] / TABLE, dtype=str, keep_default_na=False
    )
    scripts = {*table["Script_file"], *table["Data_prep_file"]}
    names = with_imports({Path(name).name for name in scripts})
    texts = {name: read_script(name) for name in sorted(names)}
    texts["train.py"] = join_steps()
    for path in (*RECIPE.glob("hparams/**/*.yaml"), *RECIPE.glob("*.csv")):
        texts[path.relative_to(RECIPE).as_posix()] = path.read_text("utf-8")
    texts["README.md"] = make_readme(texts)
    texts["extra_requirements.txt"] = "ascmamba\n"
    # A training keeps the script that it was started with.
    table = table.replace(rf"\b({'|'.join(STEPS)})\.py", "train.py", regex=True)
    table = table.replace("recipes/ASC/", TARGET, regex=True)
    return {
        **{TARGET + name: text for name, text in texts.items()},
        TABLE: table.to_csv(index=False, lineterminator="\n"),
    }


def with_imports(scripts):
    """Scripts and the modules of this folder that they import, but for the
    steps of train.py."""
    steps = {f"{name}.py" for name in STEPS}
    found, left = set(), {*scripts, *steps}
    while left:
        name = left.pop()
        found.add(name)
        for node in ast.walk(ast.parse((RECIPE / name).read_text("utf-8"))):
            module = f"{getattr(node, 'module', None)}.py"
            if (RECIPE / module).exists():
                left |= {module} - found
    return found - steps


def read_script(name):
    """Reads a script, with train.py in the place of its steps."""
    text = (RECIPE / name).read_text("utf-8")
    return re.sub(rf"(?m)^from ({'|'.join(STEPS)}) ", "from train ", text)


def join_steps():
    """Makes the text of train.py with the modules of its steps in it."""
    imports, bodies = {}, []
    for module in (*STEPS, "train"):
        text = (RECIPE / f"{module}.py").read_text("utf-8")
        nodes = ast.parse(text).body
        nodes = [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
        for node in nodes:
            if getattr(node, "module", None) not in STEPS:
                imports[ast.unparse(node)] = True
        lines = text.splitlines()
        body = "\n".join(lines[nodes[-1].end_lineno :]).strip()
        bodies.append(body.removeprefix(LOGGER).strip())
    head = "\n".join(lines[: nodes[0].lineno - 1])
    body = "\n\n\n".join(bodies)
    return "\n".join((head, *imports, f"\n{LOGGER}\n\n{body}\n"))


def make_readme(names):
    """Makes the README: without links to pages that are not copied, and
    paragraphs on scripts that are not."""
    text = (RECIPE / "README.md").read_text("utf-8")
    text = re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", text)
    others = {path.name for path in RECIPE.glob("*.py")} - {*names}
    kept = [
        paragraph
        for paragraph in text.split("\n\n")
        if not others & set(re.findall(r"\w+\.py", paragraph))
    ]
    # Headings with nothing below go, too.
    text = re.sub(r"(?m)^#+ .*\n\n(?=#)", "", "\n\n".join(kept))
    return text.replace("## Results", f"{INSTALLING}## Results")


def main(arguments):
    """Runs from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkout", help="folder of SpeechBrain, from git")
    args = parser.parse_args(arguments)
    with one_line_at_the_end():
        files = copy_recipe(args.checkout)
    print(f"{len(files)} files written.  SpeechBrain's own style and tests:\n")
    print(f"  cd {args.checkout}")
    print("  ruff check --fix recipes/ASC && ruff format recipes/ASC")
    print("  python -m pytest tests/consistency")


if __name__ == "__main__":
    main(sys.argv[1:])
