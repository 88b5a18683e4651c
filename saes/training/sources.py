"""Where training reads: a store on disk, live activations, several stores together; and the order of its batches."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from interp.sites.site import Site
from saes.layer_norm import RowScale
from saes.training.config import TrainConfig
from saes.training.stepping.state import TrainState


@runtime_checkable
class Source(Protocol):
    """What training needs of ``interp.ActivationStore`` or live activations."""

    def __len__(self) -> int: ...
    def batches_of(
        self, sites: Sequence[Site], batch_size: int, seed: int = 0, start: int = 0
    ) -> Iterator[dict[Site, Tensor]]:
        """One epoch of float32 [batch, d], from batch number ``start`` on; row i of every site is of the same token."""
        ...


def source_of(store: Source) -> dict[str, Any]:
    """Where the activations come from, as far as the store says: fingerprints of model and data."""
    return dict(getattr(store, "provenance", {}))


def place_in(store: Source, name: str) -> Any:
    """What the source calls a place: its site, unless it has names of its own (several stores)."""
    return store.place(name) if hasattr(store, "place") else Site.parse(name)


def batches(
    store: Source, config: TrainConfig, sites: Sequence[str], done: int
) -> Iterator[dict[str, Float[Tensor, "n _"]]]:
    """The batches of steps ``done``, ``done`` + 1, …: epoch after epoch, each shuffled by its own seed."""
    per_epoch = config.steps_a_pass(len(store))
    places = {name: place_in(store, name) for name in sites}
    while done < config.steps:
        epoch, start = divmod(done, per_epoch)
        for batch in store.batches_of(list(places.values()), config.batch_size, config.data_seed + epoch, start):
            yield {name: batch[place] for name, place in places.items()}
            done += 1
            if done == config.steps:
                return


def as_read(
    state: TrainState, rows: Sequence[Float[Tensor, "n _"]], config: TrainConfig
) -> list[Float[Tensor, "own _"]]:
    """The activations at every place read as training shows them: this process's rows, on its device, scaled."""
    group, device = state.sae.group, state.silent.device
    return [
        without_row_scale(group.rows(its).to(device), config) * scale
        for its, scale in zip(rows, state.scales, strict=True)
    ]


def without_row_scale(x: Float[Tensor, "n d"], config: TrainConfig) -> Float[Tensor, "n d"]:
    """The SAE itself does this once it is trained; the loss is of what it is shown here."""
    return RowScale.of(x).remove(x) if config.normalisation == "layer_norm" else x
