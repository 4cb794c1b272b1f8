"""The code that runs on Modal: builder, model fetcher, server. Never imports pulumi."""
