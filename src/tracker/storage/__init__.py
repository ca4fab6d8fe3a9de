"""The storage service: from SQS into the visit log."""
