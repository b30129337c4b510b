// The AWS SDK for Go as an agent has it: for each line of input, one call of STS
// and one line of JSON. Credentials, endpoint, retries and timeouts are what the
// SDK makes of its surroundings. After the line "assume" the call is made as the
// old client of fab makes it: with the role and the name that its variables have.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
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
		made := call
		if lines.Text() == "assume" {
			made = assume
		}
		if err := answers.Encode(made(&client)); err != nil {
			os.Exit(1)
		}
	}
}

func call(client **sts.Client) answer {
	if err := load(client); err != nil {
		return failure(err)
	}
	return identity(*client)
}

func assume(client **sts.Client) answer {
	if err := load(client); err != nil {
		return failure(err)
	}
	assumed, err := (*client).AssumeRole(context.Background(), &sts.AssumeRoleInput{
		RoleArn:         aws.String(os.Getenv("FAB_SESSION_ROLE_ARN")),
		RoleSessionName: aws.String("fab"),
		SourceIdentity:  aws.String(os.Getenv("FAB_OPERATOR")),
	})
	if err != nil {
		return failure(err)
	}
	options := (*client).Options()
	options.Credentials = credentials.NewStaticCredentialsProvider(
		*assumed.Credentials.AccessKeyId, *assumed.Credentials.SecretAccessKey, *assumed.Credentials.SessionToken,
	)
	return identity(sts.New(options))
}

// A configuration that does not load is read again with the next line.
func load(client **sts.Client) error {
	if *client != nil {
		return nil
	}
	loaded, err := config.LoadDefaultConfig(context.Background())
	if err == nil {
		*client = sts.NewFromConfig(loaded)
	}
	return err
}

func identity(client *sts.Client) answer {
	identity, err := client.GetCallerIdentity(context.Background(), nil)
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
