// The AWS SDK for JavaScript as an agent has it: for each line of input, one
// call of STS and one line of JSON. Credentials, endpoint, retries and timeouts
// are what the SDK makes of its surroundings.
import { createInterface } from "node:readline";
import { GetCallerIdentityCommand, STSClient } from "@aws-sdk/client-sts";

const client = new STSClient();
let accessKeyId;
client.middlewareStack.add(
  (next) => (call) => {
    // Asking the client for its credentials could fetch new ones.
    [, accessKeyId] = call.request.headers.authorization.match(/Credential=([^/]+)/);
    return next(call);
  },
  { step: "deserialize" }, // the first step after signing
);

for await (const _ of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const { Arn: arn } = await client.send(new GetCallerIdentityCommand());
    answer = { arn, accessKeyId };
  } catch (error) {
    answer = { error: error.message.replaceAll(/\s+/g, " ") };
  }
  console.log(JSON.stringify(answer));
}
