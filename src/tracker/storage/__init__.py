"""The storage service: it receives messages from SQS and appends each visit once to the visit log."""
