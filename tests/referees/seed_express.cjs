// Runs the seed's Express receiver (seed/express.ts, as written) on a free port of 127.0.0.1. Around it stands only what
// the seed leaves to its reader: the functions its handler calls, and `listen`.
// Secret: INTERACTOR_WEBHOOK_SECRET. First line out: the port. Then whatever the receiver prints, and its calls.
const { readFileSync } = require('node:fs');
const path = require('node:path');
const ts = require('typescript');

const CALLED = [
  'notifyUserToReconnect', 'notifyUserOfPendingApproval', 'processCompletedWorkflow', 'handleWorkflowFailure', 'forwardMessageToClient',
];

const seed = readFileSync(path.join(__dirname, 'seed', 'express.ts'), 'utf8');
const options = { module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2022, esModuleInterop: true };
const { outputText } = ts.transpileModule(`${seed}\nlisten(app);`, { compilerOptions: options });

function listen(app) {
  const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port));
}
const stubs = CALLED.map((name) => async (...args) => console.log(`called ${name} ${JSON.stringify(args)}`));
new Function('exports', 'require', 'listen', ...CALLED, outputText)({}, require, listen, ...stubs);
