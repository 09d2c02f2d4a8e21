"""Importing this keeps torchao quiet where it is imported later (transformers does so): of kernels for other devices that it did not
load, and of names in torch that are going to change. Nothing a person who trains can act on."""

import logging
from typing import Any

from kdrun.optional import needed

logging.getLogger("torchao").setLevel(logging.ERROR)


class _Enums(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "natively supported by torch.compile" not in record.getMessage()


logging.getLogger("torch.utils._pytree").addFilter(_Enums())


def transformers(what: str) -> Any:
    """The package. Raises UserError where it is not installed and `what` needs it."""
    return needed("transformers", f"{what} needs transformers")
