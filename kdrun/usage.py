"""Help of single verbs, as static text. Examples with brackets are quoted: zsh takes an unquoted `[` for a pattern."""

from __future__ import annotations

USAGE = {
    "run": """\
usage: kdrun [run] [KEY=VALUE ...] [-m] [--conf DIR] [--force] [--json] [-q] [--cfg job]

  kdrun teacher=resnet20 student=resnet8_w4 trainer.epochs=5
  kdrun 'seeds=[3,7]'                  two named seeds; seeds=5 is 0..4; seed=1 is one run
  kdrun experiment=smoke               a preset; kdrun ls experiment lists them
  kdrun -m strategy=alone,vanilla trainer.optimizer.lr=0.05,0.1     one job per combination
  kdrun trainer/optimizer=adamw trainer.optimizer.lr=0.001
  kdrun '~objective.kd'                take a key away
  kdrun --cfg job trainer=quick        print the composed config, run nothing

The words are those of Hydra: GROUP=OPTION, KEY=VALUE, ~KEY; with -m also a,b  range(1,4)  choice(a,b)  'glob(res*)'.
The same command again finds finished stages in the store and goes on where it was interrupted.""",
    "plan": """\
usage: kdrun plan [KEY=VALUE ...] [--why] [--json] [--conf DIR]

  kdrun plan teacher=resnet20
  kdrun plan --why                     which part of a stage differs from the nearest one in the store

Nothing is trained. One step on CPU shows that every term is finite and reaches its parameters.""",
    "ls": """\
usage: kdrun ls [GROUP ...] [--json] [--conf DIR]

  kdrun ls
  kdrun ls student --conf ./conf

Folders given with --conf and installed plugins are included.""",
    "runs": """\
usage: kdrun runs [--outputs DIR] [--json]

  kdrun runs --json""",
    "show": """\
usage: kdrun show [RUN] [--outputs DIR] [--json]

  kdrun show                           the last run
  kdrun show RUN                       as listed by kdrun runs""",
    "rerun": """\
usage: kdrun rerun RUN [--outputs DIR] [--force] [-q]

  kdrun rerun last

Runs the config as it was recorded, not what the config files say today.""",
    "fetch": """\
usage: kdrun fetch [NAME ...] [--from PATH] [--json]

  kdrun fetch                          what there is, with licence and size
  kdrun fetch fashion_mnist
  kdrun fetch fashion_mnist --from ~/Downloads/fashion""",
    "sync": """\
usage: kdrun sync [RUN ...|all] [--outputs DIR] [--json]

  kdrun sync                           all runs that were recorded offline; may be repeated""",
    "check": """\
usage: kdrun check [KEY=VALUE ...] [--conf DIR]

  kdrun check --conf ./conf

Composes every option and preset; exit code 2 if a file has a mistake, each with its line.""",
    "completion": """\
usage: kdrun completion bash|zsh|fish

  bash   echo 'source <(kdrun completion bash)' >> ~/.bashrc
  zsh    echo 'source <(kdrun completion zsh)' >> ~/.zshrc          after compinit
  fish   kdrun completion fish > ~/.config/fish/completions/kdrun.fish""",
}
