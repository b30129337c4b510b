// Version 2 of the AWS SDK for JavaScript as an agent has it: for each line of
// input, one call of STS and one line of JSON. Credentials, retries and timeouts are
// what the SDK makes of its surroundings. It does not read the endpoint of STS itself.
const { createInterface } = require("node:readline");
const STS = require("aws-sdk/clients/sts");

const client = new STS({ endpoint: process.env.AWS_ENDPOINT_URL_STS });

async function call() {
  const request = client.getCallerIdentity();
  try {
    const { Arn: arn } = await request.promise();
    // Asking the client for its credentials could fetch new ones.
    const { headers } = request.httpRequest;
    const [, accessKeyId] = headers.Authorization.match(/Credential=([^/]+)/);
    return { arn, accessKeyId };
  } catch (error) {
    return { error: error.message.replaceAll(/\s+/g, " ") };
  }
}

async function main() {
  for await (const _ of createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await call()));
  }
}

main();
