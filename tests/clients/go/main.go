// The AWS SDK for Go as an agent has it: for each line of input, one call of STS
// and one line of JSON. Credentials, endpoint, retries and timeouts are what the
// SDK makes of its surroundings.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/transport/http"
)

type answer struct {
	ARN         string `json:"arn,omitempty"`
	AccessKeyID string `json:"accessKeyId,omitempty"`
	Error       string `json:"error,omitempty"`
}

func main() {
	var client *sts.Client
	answers := json.NewEncoder(os.Stdout)
	answers.SetEscapeHTML(false)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := answers.Encode(call(&client)); err != nil {
			os.Exit(1)
		}
	}
}

// A configuration that does not load is read again with the next line.
func call(client **sts.Client) answer {
	ctx := context.Background()
	if *client == nil {
		loaded, err := config.LoadDefaultConfig(ctx)
		if err != nil {
			return failure(err)
		}
		*client = sts.NewFromConfig(loaded)
	}
	identity, err := (*client).GetCallerIdentity(ctx, nil)
	if err != nil {
		return failure(err)
	}
	// Asking the client for its credentials could fetch new ones.
	request := middleware.GetRawResponse(identity.ResultMetadata).(*http.Response).Request
	key := credential.FindStringSubmatch(request.Header.Get("Authorization"))[1]
	return answer{ARN: *identity.Arn, AccessKeyID: key}
}

func failure(err error) answer {
	return answer{Error: strings.Join(strings.Fields(err.Error()), " ")}
}

var credential = regexp.MustCompile("Credential=([^/]+)")
