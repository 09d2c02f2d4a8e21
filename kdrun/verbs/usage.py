"""Help of single verbs, as static text. Examples with brackets are quoted: zsh takes an unquoted `[` for a pattern."""

from __future__ import annotations

USAGE = {
    "run": """\
usage: kdrun [run] [KEY=VALUE ...] [jobs=N] [-m [--retry]] [--conf DIR] [--force] [--json] [-q] [--cfg job]

  kdrun teacher=resnet20 student=resnet8_w4 trainer.epochs=5
  kdrun 'seeds=[3,7]'                  two named seeds; seeds=5 is 0..4; seed=1 is one run
  kdrun 'controls=[plain_kd,equal_compute]'     more arms to compare with, beside those of the strategy
  kdrun experiment=smoke               a preset; kdrun ls experiment lists them
  kdrun -m strategy=alone,vanilla trainer.optimizer.lr=0.05,0.1 jobs=2     one job per combination, two at a time
  kdrun -m hydra/sweeper=optuna 'objective.kd.temperature=interval(1,8)'   a search: docs/search.md
  kdrun seeds=4 jobs=1                 one stage after another; without jobs= one at a time for each GPU, or core
  kdrun trainer/optimizer=adamw trainer.optimizer.lr=0.001
  kdrun '~objective.kd'                take a key away
  kdrun --cfg job trainer=quick        print the composed config, run nothing

The words are those of Hydra: GROUP=OPTION, KEY=VALUE, ~KEY; with -m also a,b  range(1,4)  choice(a,b)  'glob(res*)'.
The same command again finds finished stages in the store and goes on where it was interrupted; -m runs only jobs that
are not done, and failed ones with --retry. hydra/launcher=submitit_slurm|ray brings the jobs of -m to a cluster,
hydra/sweeper=optuna searches instead of trying all.""",
    "plan": """\
usage: kdrun plan [KEY=VALUE ...] [-m] [--why] [--json] [--conf DIR]

  kdrun plan teacher=resnet20
  kdrun plan --why                     which part of a stage differs from the nearest one in the store
  kdrun plan -m teacher=resnet14,resnet20       the jobs of a sweep: what is done, what needs a teacher

Nothing is trained. One step on CPU shows that every term is finite and reaches its parameters.""",
    "ls": """\
usage: kdrun ls [GROUP ...] [--json] [--conf DIR]

  kdrun ls
  kdrun ls student --conf ./conf

Folders given with --conf and installed plugins are included.""",
    "runs": """\
usage: kdrun runs [KEY=VALUE ...] [--outputs DIR] [--json]

  kdrun runs status=failed since=2d
  kdrun runs strategy=vanilla objective.kd.temperature=2,4
  kdrun runs sweep=last --json

Filters, all of which have to fit: status, since and before (30min, 12h, 2d, 3w or a date), strategy, teacher, student,
data, name, seed, sweep, tag, any group (trainer=quick) and any key of the config. Values may be lists a,b and patterns
with * and ?. status=failed means failed, diverged and out_of_memory.""",
    "compare": """\
usage: kdrun compare RUN RUN ... [--outputs DIR] [--json]

  kdrun compare RUN last               keys that differ; results, each with its difference to the first run

Own results are also compared seed by seed. A last line says what makes the comparison doubtful: other seeds, data or
commits, missing seeds, uncommitted changes.""",
    "status": """\
usage: kdrun status [--outputs DIR] [--json]

  kdrun status                         what runs and how far it is; what stopped, why, and how to go on; sweeps; disk""",
    "gc": """\
usage: kdrun gc [--yes] [--outputs DIR] [--json]

  kdrun gc                             what in the store no run refers to, and why; asks before it deletes
  kdrun gc --json                      the same as data; nothing is deleted without --yes

Runs are what refers to stages: remove the folder of a run first, then kdrun gc. Only the runs of one outputs folder
are known; do not use it on a store that several outputs folders share.""",
    "show": """\
usage: kdrun show [RUN|SWEEP] [--outputs DIR] [--json]

  kdrun show                           the last run
  kdrun show RUN                       as listed by kdrun runs
  kdrun show SWEEP                     every job of a sweep, and its configurations over their seeds

Also decisions with all their values, and of results that are several networks (views, clients) each part in every arm.""",
    "rerun": """\
usage: kdrun rerun RUN [jobs=N] [--outputs DIR] [--conf DIR] [--force] [-q]

  kdrun rerun last
  kdrun rerun RUN targets.mylab=true   of a run that was started elsewhere: lets it call your package

Runs the config as it was recorded, not what the config files say today.""",
    "table": """\
usage: kdrun table [NAME] [KEY=VALUE ...] [jobs=N] [--retry] [--check] [--json] [-q] [--conf DIR] [--outputs DIR]

  kdrun table                          all tables, and how many of their jobs are done
  kdrun table transfer jobs=2          run what is missing, check, write outputs/tables/transfer/table.{md,...}
  kdrun table transfer --check         every figure again from the records, of docs/results/NAME where there is one
  kdrun table transfer seeds=2 trainer.epochs=3     a changed table lies in a folder of its own

Written as Markdown, LaTeX, CSV and JSON. Exit code 1: a check failed, told with row, key and both values; nothing is
written then. 3: a job failed and is shown as missing.
Your own: conf/table/NAME.yaml, see docs/tables.md.""",
    "why": """\
usage: kdrun why TABLE:ROW:COLUMN [--outputs DIR] [--json]

  kdrun why transfer:all:alone1     runs, seeds, commit, config, data, teacher, hardware, cost, files
  kdrun why transfer all alone1

Reads the table that kdrun table wrote, else the one that a clone of kdrun has in docs/results.""",
    "card": """\
usage: kdrun card [RUN ...|SWEEP|TABLE] [KEY=VALUE ...] [--conf DIR] [--outputs DIR] [--json] [-q]

  kdrun card                           the last run on its own target: teacher, student alone and student side by side
  kdrun card RUN hardware=local,jetson_orin_nano precision=fp32,int8
  kdrun card RUN RUN                   one line per run, and which are dominated; the same for a sweep or a table
  kdrun card RUN critical=8,3          how often these classes are missed

Measured where the target is this machine, else an estimate from counted operations and published figures, which always
says so; accuracy, robustness and safety are those of the exported file on the test set in either case.
hardware=A,B  precision=fp32,fp16,bf16,int8  runtime=auto|torch|onnxruntime|executorch  batch=N
                                       default: hardware.deploy of the target
arms=A,B  seed=N  part=NAME|all        which networks; default: the first seed, of several views or clients the first
calls=1000  samples=2000               timed calls; test samples that are corrupted, at most
Cards are in RUN/card/cards.json, files in RUN/exports; kdrun plot RUN kind=card draws them: docs/scorecard.md.""",
    "diagnose": """\
usage: kdrun diagnose [RUN ...|SWEEP|TABLE] [arm=NAME] [teacher=ROLE] [seed=N] [which=best|last] [--force]
                      [--outputs DIR] [--json] [-q]

  kdrun diagnose                       the student and the teacher of the last run, all seeds
  kdrun diagnose RUN arm=alone         another arm, held against the teacher
  kdrun diagnose TABLE                 one line for each run of a table (or sweep, or of several runs)

Divergence between student and teacher on test samples, generalisation gaps, sharpness, ranks of features, where the two
agree, a reconstructed bound (not the paper's) with its slack, bias and variance over seeds. Of classifiers; needs the
networks in the store, and the data. Kept in RUN/diagnosis.json (--force: measured anew); kdrun plot TABLE
kind=generalisation draws them. Each number: docs/diagnostics.md.""",
    "export": """\
usage: kdrun export [RUN] [arm=NAME,NAME] [seed=N] [which=best|last] [format=A,B] [precision=A,B] [calibration=N]
                    [to=FOLDER] [--outputs DIR] [--json]

  kdrun export last                              the student of the first seed, as safetensors and as ONNX, in fp32
  kdrun export RUN format=onnx precision=fp32,int8
  kdrun export RUN arm=student,alone,teacher format=all precision=all to=files

The bare network: no adaptor, no teacher. Formats: safetensors, onnx, torch_export, executorch; precisions: fp32, fp16,
bf16, int8 (ranges from calibration=256 training samples). Outputs of every file are compared with the network's on
validation samples; a file that differs is not kept. Files are in RUN/exports: docs/export.md.""",
    "plot": """\
usage: kdrun plot [RUN ...|SWEEP] [kind=NAME] [method=NAME] [rows=N] [seed=N] [--outputs DIR] [--json]

  kdrun plot                           the last run: curves, accuracy against cost, seeds
  kdrun plot RUN RUN                   runs in the same figures
  kdrun plot SWEEP                     all runs of a sweep
  kdrun plot RUN kind=curves           one figure: curves, cost, seeds, hops
  kdrun plot RUN kind=card             accuracy against latency, from the cards that kdrun card has made
  kdrun plot TABLE kind=generalisation      gap of each run's student against K_hat, with the reconstructed bound, from
                                       what kdrun diagnose has measured
  kdrun plot RUN kind=windows          a result with views: test samples in every view, with maps of what the networks
                                       look at, before and after; needs the networks in the store, and the data.
                                       rows=6, seed= (the first) and method=occlusion choose otherwise
  kdrun plot RUN kind=episodes         an agent: test screens with the action that it took, wrong and right ones; rows=8
                                       and seed= choose otherwise

PNG and SVG (windows, episodes: PNG) in the plots folder of the run or sweep; how to read them: docs/figures.md.
Needs matplotlib: pip install matplotlib""",
    "energy": """\
usage: kdrun energy [RUN|SWEEP|TABLE] [pue=1.2] [grid=0.4] [serving=TEACHER,STUDENT] [--outputs DIR] [--json]

  kdrun energy                         the last run: stages, views, break-even points, front
  kdrun energy RUN pue=1.1 grid=0.05   another building, another grid (kg of CO2e per kWh)
  kdrun energy RUN serving=0.9,0.1     joules of one inference, where no card knows them
  kdrun energy transfer                a table: which of its runs is beaten in energy and quality at once

A number without a sensor is an estimate and says so; what is not known is n/a. How it is measured: docs/energy.md.""",
    "report": """\
usage: kdrun report [RUN|SWEEP|TABLE] [--outputs DIR] [--json]

  kdrun report                         the last run
  kdrun report TABLE                   a table that kdrun table has written

One HTML file with everything in it, report.html beside the record: to open, print or send.""",
    "fetch": """\
usage: kdrun fetch [NAME ...] [--from PATH] [--json]

  kdrun fetch                          what there is, with licence and size
  kdrun fetch fashion_mnist
  kdrun fetch fashion_mnist --from ~/Downloads/fashion""",
    "init": """\
usage: kdrun init [DIR]

  kdrun init mine                      conf/, a network, a loss and a test in the folder mine; nothing is written over
  cd mine && kdrun --conf conf experiment=mine""",
    "predict": """\
usage: kdrun predict [RUN] [FILE ...] [as=text|csv|json] [arm=NAME] [seed=N] [which=best|last] [part=NAME]
                     [--outputs DIR]

  kdrun predict last < lines.txt            texts: one a line, of pairs with a tab between both
  kdrun predict last reviews.csv as=csv     texts: a table with the columns that the network learned from
  kdrun predict last photo.png              pictures; from standard input one path a line
  kdrun predict last rows.csv as=json       rows of a table, with the names of the features in the first line

One line of output for each input: class and probability, or the number. What cannot be used has an empty line,
is told with its line, and makes the exit code 2.""",
    "generate": """\
usage: kdrun generate [RUN] ["TEXT"] [max_new=N] [temperature=X] [arm=NAME] [seed=N] [which=best|last] [--outputs DIR]

  kdrun generate last "Ada Lovelace was"    what a language model writes behind a text
  kdrun generate last max_new=20 < lines    behind each line of standard input, a line each

The likeliest tokens, up to what ends a text; temperature=0.8 draws them.""",
    "think": """\
usage: kdrun think [RUN] [tokens=N,N...] [count=N] [timed=N] [arm=NAME] [seed=N] [which=best|last] [--json]
                   [--outputs DIR]

  kdrun think last tokens=0,8,16,32    nested students of strategy=elastic on data=arithmetic_chains

One network writes the steps, in so many tokens at most, another reads question and steps and writes the answer: every
pair of the networks of an arm. count= questions of test are answered; timed= of them are timed, one by one.""",
    "translate": """\
usage: kdrun translate [RUN] [arm=NAME] [seed=N] [which=best|last] [beam=N] [length_penalty=X] < TEXT

  kdrun translate last < input.txt     one line of output for each line of input
  kdrun translate RUN arm=teacher beam=1
  kdrun translate RUN comet=wmt22.ckpt    COMET of the test translations that the run kept""",
    "chat": """\
usage: kdrun chat [RUN] [--image PATH ...] [QUESTION] [--teacher] [arm=NAME] [seed=N] [which=best|last] [max_extra=N]
                  [--outputs DIR]

  kdrun chat last --image photo.png "what colour is the ball?"
  kdrun chat last --image photo.png --teacher "is there a ball?"
  kdrun chat last --image photo.png < questions.txt     one line of output for each line of input

Prints the answer and nothing else. Pictures come first in the order given; without one the question is text alone.
The student is that of the first seed at its best epoch.""",
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
