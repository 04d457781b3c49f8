"""Reads what Prometheus scrapes."""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families


class Series(dict[tuple[str, ...], float]):
    """Values by name and then the values of labels, in the order of their names."""

    @classmethod
    def of(cls, exposition: str) -> "Series":
        """Those of a scrape, in the names of which `stock_assets_` is left out."""
        return cls(
            {
                (
                    sample.name.removeprefix("stock_assets_"),
                    *(value for _, value in sorted(sample.labels.items())),
                ): sample.value
                for family in text_string_to_metric_families(exposition)
                for sample in family.samples
                if sample.name.startswith("stock_assets_")
            }
        )

    def of_name(self, name: str) -> Mapping[tuple[str, ...], float]:
        """Those of a metric, by the values of its labels."""
        return {key[1:]: value for key, value in self.items() if key[0] == name}
