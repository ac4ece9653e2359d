"""Attributes of an execution, by which it is found again, and labels of a worker, by which it is chosen."""

from collections.abc import Mapping

from flux.errors import InvalidValueError

ATTRIBUTES, ATTRIBUTE_LENGTH = 20, 256
LABELS, LABEL_LENGTH = 32, 200


def check_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    """The attributes as they are stored.

    Raises:
        InvalidValueError: They are too many or too long, or no texts.
    """
    if not isinstance(attributes, Mapping):
        raise InvalidValueError(f"attributes is {attributes!r}: it is a mapping, as in {{'customer': '7'}}")
    for name, value in attributes.items():
        if not (_is_text(name) and _is_text(value) and name):
            raise InvalidValueError(f"the attribute {name!r} is {value!r}: both are texts, and the name is not empty")
        if "=" in name:  # NAME=VALUE is how one is asked for.
            raise InvalidValueError(f"the attribute {name!r} cannot be asked for: leave the '=' out of its name")
        if (length := max(len(name), len(value))) > ATTRIBUTE_LENGTH:
            raise InvalidValueError(f"the attribute {name[:40]!r} has {length} characters: at most {ATTRIBUTE_LENGTH}")
    if len(attributes) > ATTRIBUTES:
        raise InvalidValueError(f"there are {len(attributes)} attributes: an execution has at most {ATTRIBUTES}")
    return dict(attributes)


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels that a workflow asks for, or that a worker has.

    Raises:
        InvalidValueError: They are too many or too long, or no printable texts.
    """
    if not isinstance(labels, Mapping):
        raise InvalidValueError(f"labels is {labels!r}: it is a mapping, as in {{'gpu': 'a100'}}")
    for name, value in labels.items():
        if not (_is_label(name) and _is_label(value)):
            raise InvalidValueError(
                f"the label {name!r} is {value!r}: both are printable texts, not empty, without space at their ends"
            )
        if "=" in name:  # NAME=VALUE is how a worker is given one.
            raise InvalidValueError(f"the label {name!r} cannot be given to a worker: leave the '=' out of its name")
        if (length := max(len(name), len(value))) > LABEL_LENGTH:
            raise InvalidValueError(f"the label {name[:40]!r} has {length} characters: at most {LABEL_LENGTH}")
    if len(labels) > LABELS:
        raise InvalidValueError(f"there are {len(labels)} labels: at most {LABELS}, leave some out")
    return dict(labels)


def missing_labels(asked: Mapping[str, str], had: Mapping[str, str]) -> dict[str, str]:
    """The labels that a workflow asks for and a worker has not; if there are none, it may run the workflow."""
    return {name: value for name, value in asked.items() if had.get(name) != value}


def _is_label(value: object) -> bool:
    """Whether a label can be read, and typed, as it is."""
    return isinstance(value, str) and bool(value) and value.isprintable() and value == value.strip()


def _is_text(value: object) -> bool:
    """Whether a database keeps it as it is: half of a surrogate pair has no bytes, and a NUL ends a text early."""
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= each <= "\udfff" for each in value)
