"""kdrun completion bash|zsh|fish, and the hidden `kdrun __complete` that those scripts call. No hydra, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdrun.config.groups import conf_dirs, groups
from kdrun.problems import UserError

if TYPE_CHECKING:
    from kdrun.cli import Arguments

BASH = """\
_kdrun() {
    local IFS=$'\\n' word="${COMP_LINE:0:COMP_POINT}"
    word="${word##* }"
    COMPREPLY=($(kdrun __complete "$word" 2>/dev/null))
    # bash splits words at `=`: only what follows the last one is replaced
    if [[ "$word" == *=* && "$COMP_WORDBREAKS" == *"="* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*=}"}"}")
    fi
    [[ "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
}
complete -F _kdrun kdrun
"""
ZSH = """\
#compdef kdrun
_kdrun() {
    local -a found
    found=("${(@f)$(kdrun __complete "${words[CURRENT]}" 2>/dev/null)}")
    compadd -Q -S '' -- "${(@q)found}"
}
compdef _kdrun kdrun
"""
FISH = """\
complete -c kdrun -f -a '(kdrun __complete (commandline -ct) 2>/dev/null)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def main(args: Arguments) -> int:
    shell = args.words[0] if args.words else ""
    if shell not in SCRIPTS:
        raise UserError(f"completion for which shell? {', '.join(SCRIPTS)}", 'bash: eval "$(kdrun completion bash)"')
    print(SCRIPTS[shell], end="")
    return 0


def complete(words: list[str]) -> int:
    """Print the candidates for the last word, one a line."""
    print("\n".join(candidates(words[-1] if words else "")))
    return 0


def candidates(word: str, given: tuple[str, ...] = ()) -> list[str]:
    """What `word` can become: verbs and keys, or the options of a group after `group=` (the last of a comma list)."""
    from kdrun.cli import VERBS

    table = groups(conf_dirs(given)[0])
    group, equals, value = word.partition("=")
    if equals:
        before = value.rpartition(",")[0]
        before = f"{before}," if before else ""
        return [found for name in table.get(group, {}) if (found := f"{group}={before}{name}").startswith(word)]
    names = [*VERBS, *(f"{name}=" for name in table if "/" not in name and name != "network"), *_keys()]
    return sorted({name for name in names if name.startswith(word)})


def _keys() -> list[str]:
    from kdrun.config.schema import defaults

    def walk(node: dict[str, Any], prefix: str):
        for name, value in node.items():
            if isinstance(value, dict) and value:
                yield from walk(value, f"{prefix}{name}.")
            elif not name.startswith("_"):
                yield f"{prefix}{name}="

    return list(walk(defaults(), ""))
