// A host of the TypeScript package, as Claude Desktop, Cursor and others are: node host.mjs '{"command": [...]}' | '{"url": "...", "token": "..."}'
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const { command, url, token } = JSON.parse(process.argv[2]);
const headers = { Authorization: `Bearer ${token}` };
const transport = command
  ? new StdioClientTransport({ command: command[0], args: command.slice(1), env: process.env })
  : new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
const client = new Client({ name: "host", version: "1" }, { capabilities: {} });
await client.connect(transport);
const said = { tools: (await client.listTools()).tools.map((tool) => tool.name), progress: [] };
const asked = { name: "ask", arguments: { question: "How long?", text: "abc" } };
said.answer = await client.callTool(asked);
const abort = new AbortController();
const heard = ({ message }) => { said.progress.push(message); abort.abort(); };
const slow = { name: "ask", arguments: { question: "slow" } };
said.aborted = await client.callTool(slow, undefined, { signal: abort.signal, onprogress: heard }).then(() => false, () => true);
const { resources } = await client.listResources();
said.run = (await client.readResource({ uri: resources.at(-1).uri })).contents[0].text;
await client.close();
console.log(JSON.stringify(said));
