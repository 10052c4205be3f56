// A REST-hook app for Zapier, run by npm `zapier-platform-core` as Zapier runs it: subscribes again and again, as editing a Zap does.
// Standard input: a JSON list of {"api", "token", "target", "event", "rounds", "pause_ms", "order"}; `order` is "delete-first" or
// "create-first". Standard output: a JSON list with {"subscribed": [what each subscribe answered], "unsubscribed": [likewise],
// "list": [what performList yields], "received": what `perform` makes of a hook}.
const { readFileSync } = require('node:fs');
const { setTimeout: sleep } = require('node:timers/promises');
const zapier = require('zapier-platform-core');

// It logs to standard output, where the verdict goes.
const print = console.log;
console.log = console.error;

const webhooks = (bundle) => `${bundle.authData.api}/api/v1/webhooks`;

const trigger = {
  key: 'event',
  noun: 'Event',
  display: { label: 'New Event', description: 'Triggers when an event is delivered.' },
  operation: {
    type: 'hook',
    inputFields: [{ key: 'event', label: 'Event type', required: true }],
    performSubscribe: async (z, bundle) => {
      const body = { url: bundle.targetUrl, events: [bundle.inputData.event], name: 'Zap', zap: { id: 'zap_1' } };
      const response = await z.request({ url: webhooks(bundle), method: 'POST', body });
      return response.data.data;
    },
    performUnsubscribe: async (z, bundle) => {
      const response = await z.request({ url: `${webhooks(bundle)}/${bundle.subscribeData.id}`, method: 'DELETE' });
      return response.data.data;
    },
    perform: (z, bundle) => [bundle.cleanedRequest],
    performList: async (z, bundle) => {
      const response = await z.request({ url: `${webhooks(bundle)}/samples`, params: { type: bundle.inputData.event } });
      return response.data.data;
    },
  },
};

const app = {
  version: '1.0.0',
  platformVersion: zapier.version,
  authentication: { type: 'custom', test: (z, bundle) => z.request(`${webhooks(bundle)}/event-types`), fields: [{ key: 'token' }] },
  beforeRequest: [(request, z, bundle) => ({ ...request, headers: { ...request.headers, Authorization: `Bearer ${bundle.authData.token}` } })],
  triggers: { event: trigger },
};

const run = zapier.createAppTester(app);

async function play({ api, token, target, event, rounds, pause_ms: pause, order }) {
  const { performSubscribe, performUnsubscribe, performList, perform } = app.triggers.event.operation;
  const bundle = { authData: { api, token }, inputData: { event }, targetUrl: target };
  const list = await run(performList, bundle);
  const subscribe = () => run(performSubscribe, bundle);
  const unsubscribe = (subscribeData) => run(performUnsubscribe, { ...bundle, subscribeData });
  const [subscribed, unsubscribed] = [[await subscribe()], []];
  for (let round = 0; round < rounds; round += 1) {
    await sleep(pause);
    const former = subscribed.at(-1);
    if (order === 'create-first') {
      subscribed.push(await subscribe());
      unsubscribed.push(await unsubscribe(former));
    } else {
      unsubscribed.push(await unsubscribe(former));
      subscribed.push(await subscribe());
    }
  }
  return { list, subscribed, unsubscribed, received: await run(perform, { ...bundle, cleanedRequest: list[0] }) };
}

(async () => {
  const answers = [];
  for (const asked of JSON.parse(readFileSync(0))) answers.push(await play(asked));
  print(JSON.stringify(answers));
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
