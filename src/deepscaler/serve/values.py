"""Single values of a request: of the right type and within their limits, or a RequestError that names the field."""

from __future__ import annotations

from collections.abc import Mapping

from deepscaler.serve.fields import RequestError

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 200
MAX_STOP_IDS = 64


def flag(document: Mapping[str, object], name: str, *, default: bool, hint: str = "") -> bool:
    """true or false; null is the default."""
    value = document.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise RequestError(f"{name}: expected true or false, got {value!r:.40}{hint}", param=name)
    return value


def number(
    document: Mapping[str, object], name: str, default: float, least: float, most: float, *, whole: bool = False
) -> float:
    """A number from `least` to `most`; null is the default."""
    value = document.get(name)
    if value is None:
        return default
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise RequestError(f"{name}: expected {kind} from {least:g} to {most:g}, got {value!r:.40}", param=name)
    return value


def stop_texts(value: object) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise RequestError(f"stop: expected a text or a list of at most {MAX_STOPS}", param="stop")
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(stop) <= MAX_STOP_CHARACTERS:
            raise RequestError(f"stop: expected texts of 1 to {MAX_STOP_CHARACTERS} characters", param="stop")
    return tuple(stops)


def stop_ids(value: object) -> tuple[int, ...]:
    ids = [] if value is None else value
    if not isinstance(ids, list) or len(ids) > MAX_STOP_IDS or not all(type(i) is int and i >= 0 for i in ids):
        raise RequestError(
            f"stop_token_ids: expected a list of at most {MAX_STOP_IDS} token ids", param="stop_token_ids"
        )
    return tuple(ids)
