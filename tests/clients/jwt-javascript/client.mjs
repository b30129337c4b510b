// jose as a party that trusts an issuer: for each line of input, one JWT with the
// issuer's keys, and one line of JSON with its claims or the error.
import { createInterface } from "node:readline";
import { createLocalJWKSet, jwtVerify } from "jose";

for await (const line of createInterface({ input: process.stdin })) {
  const { token, jwks, issuer, audience } = JSON.parse(line);
  let answer;
  try {
    const { payload: claims } = await jwtVerify(token, createLocalJWKSet(jwks), {
      algorithms: ["ES256"],
      issuer,
      audience,
      requiredClaims: ["aud", "exp", "iat", "iss", "jti", "sub"],
    });
    answer = { claims };
  } catch (error) {
    answer = { error: `${error.code}: ${error.message}` };
  }
  console.log(JSON.stringify(answer));
}
