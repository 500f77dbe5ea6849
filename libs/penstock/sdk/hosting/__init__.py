"""What stands between an author's function and its callers: the gRPC services, and worker processes for what may hang.

An author needs none of it: `penstock.sdk.serve` and the environment service do.
"""
