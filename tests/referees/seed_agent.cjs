// Runs the seed's Node receiver of agent webhooks (seed/agent.js, as written) on a free port of 127.0.0.1. Around it
// stands only what the seed leaves to its reader: the Express app with its JSON parser, and `listen`.
// Secret: WEBHOOK_SECRET. First line out: the port.
const { readFileSync } = require('node:fs');
const path = require('node:path');
const express = require('express');

const app = express();
app.use(express.json());
const seed = readFileSync(path.join(__dirname, 'seed', 'agent.js'), 'utf8');
new Function('require', 'app', seed)(require, app);
const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port));
