"""The `penstock` command."""

import os

# gRPC reads it when it is imported, here and in whatever is started. Its fork handlers stop pollers below calls that go
# on, which ended a `penstock train` with "epoll_wait: Bad file descriptor"; what is forked becomes another program.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
