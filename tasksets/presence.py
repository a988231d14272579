"""Whether the data of a task are on this machine, without reading them."""

from tasksets import catalogue, data, prepared, registry


def data_present(dataset: str) -> bool:
    """Whether a data set is bundled, registered or prepared here."""
    if dataset in data.available():
        return True
    if catalogue.read_text_name(dataset).corpus == catalogue.BUNDLED_TEXT:
        return True
    return prepared.serving(dataset) is not None


def dataset_of(name: str) -> str | None:
    """The data set that the task of a name is served from; None: it needs none."""
    return getattr(registry.config(name), "dataset", None)
