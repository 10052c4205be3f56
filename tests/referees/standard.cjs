// npm `standardwebhooks` verifies requests as they were received.
// Standard input: a JSON list of {"headers": {name: value}, "body": base64, "secret": text}.
// Standard output: a JSON list with null for each that verifies, else what the library said.
const { readFileSync } = require('node:fs');
const { Webhook } = require('standardwebhooks');

function verdict({ headers, body, secret }) {
  try {
    new Webhook(secret).verify(Buffer.from(body, 'base64'), headers);
    return null;
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}

console.log(JSON.stringify(JSON.parse(readFileSync(0)).map(verdict)));
