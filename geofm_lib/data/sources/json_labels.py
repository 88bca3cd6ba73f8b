"""The labels in a JSON file that lies beside an image."""

import json


def label(data: bytes) -> str:
    """What a JSON file says under labels, label or class, with "|" between several; "" for nothing."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, dict):
        return ""
    said = next((found[key] for key in ("labels", "label", "class") if found.get(key)), "")
    labels = said if isinstance(said, list) else [said]
    return "|".join(str(each) for each in labels if isinstance(each, str | int))
