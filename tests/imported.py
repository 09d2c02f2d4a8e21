"""What the processes of forked.py find imported: read by their fork server alone, before it forks the first of them."""

import os
import sys
from pathlib import Path

from kdrun.processes.server import preload

GIVEN = {"", *os.environ.get("PYTHONPATH", "").split(os.pathsep), str(Path(__file__).parent)}
PATH = [path for path in sys.path if path not in GIVEN]
"""Where a new interpreter looks for modules, but for its own folder and PYTHONPATH."""

FURTHER = (
    "kdrun.sweep.execute", "kdrun.domains.images.shipped.digits", "kdrun.domains.images.module", "kdrun.learning.workers", "kdrun.verbs.run",
    "kdrun.job.parallel_lab", "kdrun.domains.vision_language.networks.llava", "torch._dynamo", "torch.distributed.fsdp",
    "transformers.models.llama.modeling_llama", "wandb",
)  # fmt: skip

preload({"path": sys.path, "preload": FURTHER})
