"""Importing this keeps torchao quiet where it is imported later (transformers does so): of kernels for other devices that it did not
load, and of names in torch that are going to change. Nothing a person who trains can act on."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdrun.optional import needed

logging.getLogger("torchao").setLevel(logging.ERROR)


class _Enums(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "natively supported by torch.compile" not in record.getMessage()


logging.getLogger("torch.utils._pytree").addFilter(_Enums())


@contextmanager
def loading() -> Iterator[None]:
    """Without what transformers writes while it loads weights: bars, and a report that its caller is given as well."""
    from transformers.utils import logging as told

    level, bars = told.get_verbosity(), told.is_progress_bar_enabled()
    told.set_verbosity_error()
    told.disable_progress_bar()
    try:
        yield
    finally:
        told.set_verbosity(level)
        if bars:
            told.enable_progress_bar()


def transformers(what: str) -> Any:
    """The package. Raises UserError where it is not installed and `what` needs it."""
    return needed("transformers", f"{what} needs transformers")
