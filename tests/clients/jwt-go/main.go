// go-jose as a party that trusts an issuer: for each line of input, one JWT with
// the issuer's keys, and one line of JSON with its claims or the error.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

type given struct {
	Token    string             `json:"token"`
	JWKS     jose.JSONWebKeySet `json:"jwks"`
	Issuer   string             `json:"issuer"`
	Audience string             `json:"audience"`
}

type answer struct {
	Claims map[string]any `json:"claims,omitempty"`
	Error  string         `json:"error,omitempty"`
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		claims, err := verify(lines.Bytes())
		if err != nil {
			err = out.Encode(answer{Error: err.Error()})
		} else {
			err = out.Encode(answer{Claims: claims})
		}
		if err != nil {
			panic(err)
		}
	}
}

func verify(line []byte) (map[string]any, error) {
	var it given
	if err := json.Unmarshal(line, &it); err != nil {
		return nil, err
	}
	token, err := jwt.ParseSigned(it.Token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, err
	}
	var registered jwt.Claims
	var all map[string]any
	if err := token.Claims(&it.JWKS, &registered, &all); err != nil {
		return nil, err
	}
	if registered.Expiry == nil || registered.IssuedAt == nil || registered.ID == "" {
		return nil, errors.New("a claim is missing")
	}
	expected := jwt.Expected{Issuer: it.Issuer, AnyAudience: jwt.Audience{it.Audience}}
	return all, registered.Validate(expected)
}
