"""What a graph file must hold to be shown, as a JSON schema: what Neuronpedia's published one asks for, and what
circuit-tracer's page reads besides."""

_TEXT, _NUMBER, _WHOLE = {"type": "string"}, {"type": "number"}, {"type": "integer"}
_SHARE = {"type": ["number", "null"], "minimum": 0, "maximum": 1 + 1e-9}
_NODE = {
    "node_id": _TEXT,
    "feature": _WHOLE,
    "layer": _TEXT,
    "ctx_idx": _WHOLE | {"minimum": 0},
    "feature_type": _TEXT,
    "jsNodeId": _TEXT,
    "clerp": _TEXT,
    "token_prob": _NUMBER,
    "is_target_logit": {"type": "boolean"},
    "run_idx": _WHOLE,
    "reverse_ctx_idx": _WHOLE,
}
_METADATA = {
    "slug": _TEXT,
    "scan": _TEXT,
    "prompt": _TEXT,
    "prompt_tokens": {"type": "array", "items": _TEXT},
    "transcoder_list": {"type": "array", "items": _TEXT},
    "schema_version": _WHOLE,
}
_VIEW = {
    "pinnedIds": {"type": "array", "items": _TEXT},
    "supernodes": {"type": "array", "items": {"type": "array", "items": _TEXT}},
    "linkType": _TEXT,
    "clickedId": _TEXT,
    "sg_pos": _TEXT,
}
_LINK = {"source": _TEXT, "target": _TEXT, "weight": _NUMBER}


def _object(needed: dict, **optional: dict) -> dict:
    return {"type": "object", "properties": needed | optional, "required": list(needed)}


GRAPH_FILE = _object(
    {
        "metadata": _object(
            _METADATA,
            node_threshold=_NUMBER,
            feature_details={"type": "object", "additionalProperties": _TEXT},
            info=_object({}, generator=_object({"name": _TEXT}), create_time_ms=_NUMBER),
            generation_settings={"type": "object"},
            pruning_settings=_object({}, node_threshold=_NUMBER, edge_threshold=_NUMBER),
        ),
        "qParams": _object(_VIEW),
        "nodes": {"type": "array", "items": _object(_NODE, influence=_SHARE, activation={"type": ["number", "null"]})},
        "links": {"type": "array", "items": _object(_LINK)},
    }
)
