// Version 1 of the AWS SDK for Go as an agent has it: for each line of input, one call
// of STS and one line of JSON. Credentials, retries and timeouts are what the SDK makes of
// its surroundings. It does not read the endpoint of STS itself.
package main

import (
	"bufio"
	"encoding/json"
	"os"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/aws/session"
	"github.com/aws/aws-sdk-go/service/sts"
)

type answer struct {
	ARN         string `json:"arn,omitempty"`
	AccessKeyID string `json:"accessKeyId,omitempty"`
	Error       string `json:"error,omitempty"`
}

func main() {
	var client *sts.STS
	answers := json.NewEncoder(os.Stdout)
	answers.SetEscapeHTML(false)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := answers.Encode(call(&client)); err != nil {
			os.Exit(1)
		}
	}
}

// A configuration that does not load is read again with the next line.
func call(client **sts.STS) answer {
	if *client == nil {
		loaded, err := session.NewSession()
		if err != nil {
			return failure(err)
		}
		*client = sts.New(loaded, aws.NewConfig().WithEndpoint(os.Getenv("AWS_ENDPOINT_URL_STS")))
	}
	request, identity := (*client).GetCallerIdentityRequest(nil)
	if err := request.Send(); err != nil {
		return failure(err)
	}
	// Asking the client for its credentials could fetch new ones.
	key := credential.FindStringSubmatch(request.HTTPRequest.Header.Get("Authorization"))[1]
	return answer{ARN: *identity.Arn, AccessKeyID: key}
}

func failure(err error) answer {
	return answer{Error: strings.Join(strings.Fields(err.Error()), " ")}
}

var credential = regexp.MustCompile("Credential=([^/]+)")
