// Invokes a function of FN at SERVER with Oracle's SDK, in each of its ways, and prints
// what came of each as a line of JSON.
const { generateKeyPairSync } = require('crypto')
const common = require('oci-common')
const { FunctionsInvokeClient } = require('oci-functions')

const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048, privateKeyEncoding: { type: 'pkcs1', format: 'pem' }, publicKeyEncoding: { type: 'pkcs1', format: 'pem' } })
const client = new FunctionsInvokeClient({
  authenticationDetailsProvider: new common.SimpleAuthenticationDetailsProvider('ocid1.tenancy.oc1..a', 'ocid1.user.oc1..b', 'f1:n2', privateKey, null, common.Region.US_ASHBURN_1),
})
client.endpoint = process.env.SERVER

async function text (stream) {
  const parts = []
  for await (const part of stream || []) parts.push(Buffer.from(part))
  return Buffer.concat(parts).toString()
}

async function invoke (request) {
  try {
    const answer = await client.invokeFunction({ functionId: process.env.FN, retryConfiguration: common.NoRetryConfigurationDetails, ...request })
    console.log(JSON.stringify({ name: answer.opcRequestId, body: await text(answer.value) }))
  } catch (e) {
    console.log(JSON.stringify({ status: e.statusCode, code: e.serviceCode, message: e.message, name: e.opcRequestId }))
  }
}

async function main () {
  await invoke({ invokeFunctionBody: 'headers', fnIntent: 'httprequest', fnInvokeType: 'sync', opcRequestId: 'mine' })
  await invoke({ invokeFunctionBody: 'count', fnInvokeType: 'detached' })
  await invoke({ invokeFunctionBody: 'exit 1', isDryRun: true })
  await invoke({ invokeFunctionBody: 'exit 1' })
  await invoke({ invokeFunctionBody: 'x', functionId: 'ocid1.fnfunc.oc1.iad.none' })
  await invoke({ invokeFunctionBody: 'x', fnInvokeType: 'later' })
  await invoke({ invokeFunctionBody: ' '.repeat(6 * 1024 * 1024 + 1) })
}
main()
