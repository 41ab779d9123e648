"""What `/openapi.json` says of the bodies of files and batches."""

from __future__ import annotations

from apportion.deployments.ingress.bulk.bodies import MAX_EXPIRY_S, BatchBody
from apportion.deployments.ingress.openapi import operation, schema_of

BATCH_OPERATION = operation(schema_of(BatchBody, frozenset()))
UPLOAD_OPERATION = operation(
    {
        "type": "object",
        "required": ["purpose", "file"],
        "properties": {
            "purpose": {"const": "batch"},
            "expires_after[anchor]": {"const": "created_at"},
            "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": MAX_EXPIRY_S},
            "file": {"type": "string", "format": "binary"},
        },
    },
    media_type="multipart/form-data",
)
