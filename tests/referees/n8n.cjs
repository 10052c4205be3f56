// A trigger node as n8n has them (`webhookMethods`: checkExists, create, delete), and what n8n does with one when its workflow is
// edited: delete, then check, then create. Nodes are given helpers by n8n; those are n8n's here: requests throw beyond 2xx, answers are
// parsed JSON, and what `getWorkflowStaticData` holds stays from one call to the next.
// Standard input and output: as `zapier.cjs`, with {"created": [ids], "deleted": [results of delete], "checks": [results of checkExists]}.
const { readFileSync } = require('node:fs');
const { setTimeout: sleep } = require('node:timers/promises');

class HookyardTrigger {
  webhookMethods = {
    default: {
      async checkExists() {
        const { data } = await this.helpers.httpRequest({ method: 'GET', url: '/api/v1/webhooks', json: true });
        const found = data.webhooks.find((it) => it.url === this.getNodeWebhookUrl('default') && it.enabled);
        if (found === undefined) return false;
        this.getWorkflowStaticData('node').webhookId = found.id;
        return true;
      },
      async create() {
        const body = { url: this.getNodeWebhookUrl('default'), events: [this.getNodeParameter('event')], enabled: true };
        const { data } = await this.helpers.httpRequest({ method: 'POST', url: '/api/v1/webhooks', body, json: true });
        const kept = this.getWorkflowStaticData('node');
        kept.webhookId = data.id;
        kept.webhookSecret = data.secret;
        return true;
      },
      async delete() {
        const kept = this.getWorkflowStaticData('node');
        try {
          await this.helpers.httpRequest({ method: 'DELETE', url: `/api/v1/webhooks/${kept.webhookId}`, json: true });
        } catch {
          return false;
        }
        delete kept.webhookId;
        delete kept.webhookSecret;
        return true;
      },
    },
  };
}

/// What n8n binds a node's methods to.
function functions({ api, token, target, event }) {
  const kept = {};
  async function httpRequest({ method, url, body, json }) {
    const headers = { accept: 'application/json', authorization: `Bearer ${token}`, ...(body && { 'content-type': 'application/json' }) };
    const response = await fetch(api + url, { method, headers, body: body && JSON.stringify(body) });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${url}: ${response.status} ${text}`);
    return json && text !== '' ? JSON.parse(text) : text;
  }
  return {
    helpers: { httpRequest },
    getNodeWebhookUrl: () => target,
    getNodeParameter: () => event,
    getWorkflowStaticData: () => kept,
  };
}

async function play(asked) {
  const methods = new HookyardTrigger().webhookMethods.default;
  const self = functions(asked);
  const [created, deleted, checks] = [[], [], []];
  async function activate() {
    const exists = await methods.checkExists.call(self);
    checks.push(exists);
    if (!exists) await methods.create.call(self);
    created.push(self.getWorkflowStaticData().webhookId);
  }
  await activate();
  for (let round = 0; round < asked.rounds; round += 1) {
    await sleep(asked.pause_ms);
    deleted.push(await methods.delete.call(self));
    await activate();
  }
  // n8n was restarted: the node finds what it made.
  checks.push(await methods.checkExists.call(self));
  return { created, deleted, checks };
}

(async () => {
  const answers = [];
  for (const asked of JSON.parse(readFileSync(0))) answers.push(await play(asked));
  console.log(JSON.stringify(answers));
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
