"""kdrun completion bash|zsh|fish, and the hidden `kdrun __complete` that those scripts call. No hydra, no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from kdrun.config.groups import ConfDir, Groups, conf_dirs, groups, tables
from kdrun.problems import UserError
from kdrun.verbs.arguments import Arguments

# Each script calls the command that is being completed (it may lie in a virtual environment that is not active) with
# all words up to the cursor. No space follows `key=` and `node.`; where there is no candidate, files are offered.
BASH = """\
_kdrun() {
    local IFS=$' \\t\\n' line="${COMP_LINE:0:COMP_POINT}" word candidate
    local -a given
    read -ra given <<< "$line"
    word="${line##*[[:space:]]}"
    [[ -z "$word" ]] && given+=("")
    IFS=$'\\n'
    COMPREPLY=($("${COMP_WORDS[0]/#\\~/$HOME}" __complete "${given[@]:1}" 2>/dev/null </dev/null))
    for candidate in "${COMPREPLY[@]}"; do
        [[ "$candidate" == *[=.] ]] && compopt -o nospace
    done
    # bash splits words at `=`: only what follows the last one is replaced
    if [[ "$word" == *=* && "$COMP_WORDBREAKS" == *"="* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*=}"}"}")
    fi
}
complete -o bashdefault -o default -F _kdrun kdrun
"""
ZSH = """\
#compdef kdrun
_kdrun() {
    local -a found open closed
    found=("${(@f)$("${words[1]/#\\~/$HOME}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null </dev/null)}")
    open=("${(@M)found:#*[=.]}")
    closed=("${(@)found:#*[=.]}")
    closed=("${(@)closed:#}")
    if (( ${#open} + ${#closed} == 0 )); then
        _files
        return
    fi
    # compadd quotes brackets by itself
    (( ${#open} )) && compadd -S '' -- "${open[@]}"
    (( ${#closed} )) && compadd -- "${closed[@]}"
}
compdef _kdrun kdrun
"""
FISH = """\
function __kdrun_complete
    set -l given (commandline -opc) (commandline -ct)
    command $given[1] __complete --describe $given[2..-1] 2>/dev/null </dev/null
end
complete -c kdrun -f -a '(__kdrun_complete)'
complete -c kdrun -l conf -r -F
complete -c kdrun -l from -r -F
complete -c kdrun -l outputs -r -F
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
WHICH = ("best", "last")
FILES = ("--conf", "--from", "--outputs")


def main(args: Arguments) -> int:
    shell = args.words[0] if args.words else ""
    if shell not in SCRIPTS:
        raise UserError(f"completion for which shell? {', '.join(SCRIPTS)}", 'bash: eval "$(kdrun completion bash)"')
    print(SCRIPTS[shell], end="")
    return 0


def complete(words: list[str]) -> int:
    """Print the candidates for the last word, one a line; after `--describe` each with a tab and its help."""
    describe = words[:1] == ["--describe"]
    found = candidates(words[1:] if describe else words)
    for name, help in found.items():
        print(f"{name}\t{help}" if describe and help else name)
    return 0


def candidates(words: Sequence[str]) -> dict[str, str]:
    """What the last word can become -> one line of help. Nothing where a file name is due."""
    from kdrun.verbs.arguments import FLAGS, VERBS

    *before, word = [word for word in words if word != "--"] or [""]
    if before and before[-1] in FILES:
        return {}
    verb = next((item for item in before if item in VERBS), None)
    if before and before[-1] == "--cfg":
        found = {"job": ""}
    elif word.startswith("-"):
        found = {name: "" for name in FLAGS if name.startswith("--")}
    elif verb in ("show", "rerun", "sync", "compare", "plot", "report", "energy", "diagnose"):
        found = dict.fromkeys(_runs(before), "")
    elif verb == "export":
        from kdrun.hardware.exports.formats import FORMATS, PRECISIONS
        from kdrun.verbs.export import OPTIONS

        known = {"format": FORMATS, "precision": PRECISIONS, "which": WHICH, "arm": ("student", "alone", "teacher")}
        found = _options(word, before, OPTIONS, known)
    elif verb == "card":
        from kdrun.hardware.card.request import OPTIONS, RUNTIMES
        from kdrun.hardware.exports.formats import PRECISIONS

        targets = groups(_dirs(before)).get("hardware", {}) if word.startswith("hardware=") else {}
        found = _options(word, before, OPTIONS, {"precision": PRECISIONS, "runtime": RUNTIMES, "hardware": targets})
    elif verb in ("table", "why") and "=" not in word:
        found = {name: option.summary for name, option in tables(_dirs(before)).items()}
    elif verb == "runs" and "=" not in word:
        from kdrun.tracking.filters import KEYS

        found = {f"{name}=": "" for name in KEYS}
    elif verb == "completion":
        found = dict.fromkeys(SCRIPTS, "")
    elif verb == "fetch":
        found = dict.fromkeys(_fetchable(), "")
    else:
        dirs = _dirs(before)
        table = groups(dirs)
        if verb == "ls":
            found = dict.fromkeys(table, "")
        elif "=" in word:
            found = _values(word, before, table, dirs)
        else:
            found = {} if verb or any("=" in item for item in before) else dict(VERBS)
            found |= _keys(word, before, table, dirs)
    return {name: help for name, help in found.items() if name.startswith(word)}


def _values(word: str, before: list[str], table: Groups, dirs: list[ConfDir]) -> dict[str, str]:
    """After `group=` its options, after a key with choices those; in a list `a,b` the last one is completed."""
    key, start = _start(word)
    key = key.lstrip("+").removeprefix("--")
    if key in table:
        return {f"{start}{name}": option.summary for name, option in table[key].items()}
    from kdrun.config.keys import task_of, values

    return {f"{start}{name}": "" for name in values(key, task_of(before, table, dirs))}


def _keys(word: str, before: list[str], table: Groups, dirs: list[ConfDir]) -> dict[str, str]:
    """Groups, and dotted keys up to their next dot: `trainer.` first, then what is below it."""
    found = {f"{group}=": "" for group in table if group != "network"}
    if not word:
        return found | {"seed=": "the student's seed: one run", "seeds=": "how many runs, or which: seeds=5"}
    from kdrun.config.keys import known_keys

    for key, help in known_keys(before, table, dirs).items():
        if key.startswith(word) and "_target_" not in key:
            dot = key.find(".", len(word))
            found.setdefault(key[: dot + 1] if dot >= 0 else f"{key}=", help if dot < 0 else "")
    return found


def _start(word: str) -> tuple[str, str]:
    """(key, what stands before the value that is being typed) of `key=a,b` and `key=[a,b`."""
    key, _, value = word.partition("=")
    bracket = "[" if value.startswith("[") else ""
    return key, f"{key}=" + (value.rpartition(",")[0] + "," if "," in value else bracket)


def _options(word: str, before: list[str], names: Iterable[str], known: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Runs and the options of a verb; after `key=` the values that are known for it."""
    if "=" not in word:
        return {**dict.fromkeys(_runs(before), ""), **{f"{name}=": "" for name in names}}
    key, start = _start(word)
    values = known.get(key, ())
    return {
        f"{start}{name}": getattr(values[name], "summary", "") if isinstance(values, dict) else "" for name in values
    }


def _dirs(words: list[str]) -> list[ConfDir]:
    """Folders of options, those that were typed included."""
    typed = [word.partition("=")[2] for word in words if word.startswith("--conf=")]
    typed += [path for flag, path in pairwise(words) if flag == "--conf"]
    return conf_dirs([path for path in typed if os.path.isdir(path)])[0]


def _runs(words: list[str]) -> list[str]:
    outputs = next((word.partition("=")[2] for word in words if word.startswith("paths.outputs=")), "outputs")
    if "--outputs" in words[:-1]:
        outputs = words[words.index("--outputs") + 1]
    try:
        return ["last", *sorted(entry.name for entry in os.scandir(os.path.join(outputs, "runs")) if entry.is_dir())]
    except OSError:
        return []


def _fetchable() -> list[str]:
    """Section names of the registry, without reading it as TOML."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with open(os.path.join(package, "data", "fetchable.toml"), encoding="utf-8") as text:
        return [line.strip().strip("[]") for line in text if line.startswith("[") and not line.startswith("[[")]
