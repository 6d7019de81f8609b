"""A small MCP server over standard input and output; its tools are named after its environment."""

import os

from mcp.server.mcpserver import MCPServer

server = MCPServer("stdio")
for name in sorted(os.environ):

    def tool() -> str:
        return "done"

    server.add_tool(tool, name=f"env_{name}", description="says done")

if __name__ == "__main__":
    server.run("stdio")
