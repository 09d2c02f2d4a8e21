"""The one LightningModule, where teachers come from, and what runs around a fit. No strategy is known here."""

SEMANTICS = 1
USES = ("kdrun.objectives", "kdrun.networks", "kdrun.data")
