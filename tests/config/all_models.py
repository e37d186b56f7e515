"""Every model of the configuration, however deep it inherits."""

from collections.abc import Iterator

from aoai_gateway.config.fields import Model
from aoai_gateway.config.models import Config


def all_models(model: type[Model] = Model) -> Iterator[type[Model]]:
    for each in model.__subclasses__():
        yield each
        yield from all_models(each)


assert Config in all_models()
