"""PyJWT as a party that trusts an issuer: for each line of input, one JWT with
the issuer's keys, and one line of JSON with its claims or the error."""

import json
import sys

import jwt

for line in sys.stdin:
    given = json.loads(line)
    try:
        keys = jwt.PyJWKSet.from_dict(given["jwks"])
        key = keys[jwt.get_unverified_header(given["token"])["kid"]]
        claims = jwt.decode(
            given["token"],
            key,
            algorithms=["ES256"],
            issuer=given["issuer"],
            audience=given["audience"],
            options={"require": ["aud", "exp", "iat", "iss", "jti", "sub"]},
        )
        answer = {"claims": claims}
    except (KeyError, jwt.PyJWTError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
