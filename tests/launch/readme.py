#!/usr/bin/env python3
"""What README.md and the --help texts tell a reader to type: verbs, options, settings, files and variables that
they name exist, headings that it links to, and the configurations of their training runs pass a dry run."""
import glob
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOCKSTEP = os.environ["LOCKSTEP"]
failures = []
checks = 0


def check(holds, text):
    global checks
    checks += 1
    if not holds:
        failures.append(text)


def run(*words, **options):
    return subprocess.run([LOCKSTEP, *words], capture_output=True, text=True, **options)


def help_of(verb):
    return run(*([verb] if verb else []), "--help").stdout


VERBS = re.findall(r"^  (\w+) {2,}\w", help_of(""), re.M)
HELP = {verb: help_of(verb) for verb in VERBS}
OPTIONS = {verb: set(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", text.split("\noptions:\n", 1)[1]))
           for verb, text in HELP.items()}
SETTINGS = set(re.findall(r"^  (\w+\.\w+) {2,}", HELP["train"], re.M))
SECTIONS = {name.split(".")[0] for name in SETTINGS}


def commands(text, indent):
    """Each indented line of a text with `lockstep VERB`, the verb, and the words after it."""
    for line in re.findall(rf"^{' ' * indent}(\S.*)$", text, re.M):
        if "lockstep" not in line or line.startswith(("lockstep:", "'")):
            continue
        line = line.replace("[", " ").replace("]", " ") if indent == 2 else line
        for part in re.split(r" \| | >", re.sub(r"(^|\s)#.*", "", line)):
            words = shlex.split(part)
            names = [i for i, word in enumerate(words[:-1]) if word.rsplit("/")[-1] == "lockstep"]
            if names and words[names[-1] + 1] in VERBS:
                yield line, words[names[-1] + 1], words[names[-1] + 2:]


def dry_run(line, words, work):
    """The configuration of a `lockstep train`, on the ranks that the line starts."""
    ranks = re.search(r"(?:-n|local\.sh|--ranks) (\d+)", line)
    gpus = re.search(r"--gpus (\d+)", line)
    missing = ("data.dir=", "run.device=", "run.init=", "cost.cluster=local.yaml")  # made by lines before, or a GPU
    kept = [word for word in words if "=" in word and not word.startswith(missing)]
    base = [] if any("preset=" in word for word in kept) else ["model.layers=8", "model.channels=128", "model.heads=8"]
    recipe = [str(ROOT / word) for word in words if word.startswith("launch/recipes/")]
    batch = [] if recipe or any(word.startswith("batch.sequences") for word in kept) else ["batch.sequences=128"]
    result = run("train", *recipe, *([] if recipe else base), *batch, *kept, f"data.dir={work}/data", "--dry-run",
                 "--ranks", ranks[1] if ranks else gpus[1] if gpus else "1", cwd=work)
    check(result.returncode == 0, f"{line}\n    {result.stderr.strip()}")


def main():
    readme = (ROOT / "README.md").read_text()
    with tempfile.TemporaryDirectory() as work:
        pathlib.Path(work, "text").mkdir()
        for i in range(8):
            pathlib.Path(work, "text", f"{i}.txt").write_text(readme[i * 900:][:9000])
        check(run("prep", "text", "-o", "data", "--val", "0.2", cwd=work).returncode == 0, "prep")
        examples = [(f"{verb} --help", text.split("\noptions:\n")[0], 2) for verb, text in HELP.items()]
        for where, text, indent in [("README.md", readme, 4), *examples]:
            for line, verb, words in commands(text, indent):
                for word in words:
                    option = word.split("=")[0]
                    check(not re.match(r"--?[a-z]", word) or option in OPTIONS[verb] or option == "--help",
                          f"{where}: {line}: 'lockstep {verb}' has no {option}")
                    check(not re.match(rf"({'|'.join(SECTIONS)})\.\w+=", word) or option in SETTINGS,
                          f"{where}: {line}: there is no setting {option}")
                if verb == "train" and where == "README.md":
                    dry_run(line, words, work)
    headings = {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", readme, re.M)}
    for anchor in re.findall(r"\]\(#([^)]*)\)", readme):
        check(anchor in headings, f"README.md: there is no heading for #{anchor}")
    for name in re.findall(rf"(?<![\w/.])((?:{'|'.join(SECTIONS)})\.[a-z_]+)\b(?![(./])", readme):
        known = name in SETTINGS or name.endswith("_") and any(s.startswith(name) for s in SETTINGS)
        known = known or name.rsplit(".")[1] in ("yaml", "json", "h", "c", "sh", "prom")
        check(known, f"README.md: there is no setting {name}")
    for name in re.findall(r"(?<![\w/.-])((?:launch|tests|checkpoint|benchmarks|runtime|optim|collectives)/[\w./-]*\w)", readme):
        check(glob.glob(str(ROOT / name)), f"README.md: there is no {name}")
    sources = "".join(path.read_text(errors="replace") for room in ("CMakeLists.txt", "launch", "runtime", "collectives", "checkpoint", "tests", "optim")
                      for path in ([ROOT / room] if (ROOT / room).is_file() else (ROOT / room).rglob("*"))
                      if path.suffix in (".c", ".h", ".cu", ".sh", ".txt", ".py", ".cmake"))
    for name in set(re.findall(r"\b(?:LOCKSTEP|LS)_[A-Z_]*[A-Z]\b", readme)):
        check(name in sources, f"README.md: nothing reads {name}")
    print("\n".join(failures) or f"{checks} checks passed")
    sys.exit(1 if failures or checks < 300 else 0)


main()
