"""A real MCP server from npm that tests call tools of, and a door before it that sees with whose credentials."""
