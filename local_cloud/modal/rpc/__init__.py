"""Modal's gRPC API as its own client and container entrypoint speak it (modal 1.6.4)."""
