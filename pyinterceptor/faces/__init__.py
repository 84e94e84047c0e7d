"""The interceptor for programs that don't run Trio: blocking calls, and asyncio's."""
