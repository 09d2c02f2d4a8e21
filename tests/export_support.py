"""What tests of exports share: subjects with random weights and real data, made without a run."""

from kdrun.domains.load import load_data
from kdrun.hardware.exports.subject import TrainedNetwork
from kdrun.networks.build import build_network
from kdrun.networks.weights import save_weights

MLP = {"_target_": "kdrun.networks.mlp.MLP", "hidden": [16]}
RESNET = {"_target_": "kdrun.networks.resnet.ResNet", "depth": 8, "width": 4}
SLICES = {
    "_target_": "kdrun.domains.ct.networks.slicewise.Slicewise",
    "encoder": {"_target_": "kdrun.networks.resnet.ResNet", "_partial_": True, "depth": 8, "width": 4},
}
TRANSFORMER = {
    "_target_": "kdrun.domains.translation.networks.transformer.Transformer", "width": 16, "encoder_layers": 1, "decoder_layers": 1, "heads": 2,
    "feedforward": 32, "dropout": 0.1, "share": "all",
}  # fmt: skip
DIGITS = {"_target_": "kdrun.domains.images.shipped.digits.digits"}
DIABETES = {"_target_": "kdrun.domains.tabular.shipped.diabetes.diabetes", "task": "regression"}
SCANS = {
    "_target_": "kdrun.domains.ct.shipped.ct_synthetic.ct_synthetic", "task": "diagnosis", "window": "lung", "train": 20, "val": 8, "test": 8,
    "depth": 4, "size": 16,
}  # fmt: skip


def subject_of(folder, node, data, seed=0, **changes) -> TrainedNetwork:
    """A network with the weights of a seed, its file in `folder`, on the data of a config."""
    module = load_data({**data, **changes}, {"cache": str(folder / "cache")})
    network = build_network(node, module.spec, seed)
    path = save_weights(network, folder / f"best-{seed}.safetensors", module.spec, node)
    return TrainedNetwork(
        arm="student", label="student", seed=seed, stage=folder, weights=path, which="best", network=network.eval(),
        node=node, spec=module.spec, module=module, task=module.task(), source={"run": "toy", "stage": "student/seed=0"},
    )  # fmt: skip
