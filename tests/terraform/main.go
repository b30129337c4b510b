// Reads a file as Terraform does, by its own parser, and prints each resource's attributes as
// JSON. What a resource refers to is only its own name. A file that `terraform fmt` would change is
// an error.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		stop(err)
	}
	file, problems := hclsyntax.ParseConfig(text, "stdin", hcl.InitialPos)
	if problems.HasErrors() {
		stop(problems)
	}
	if formatted := hclwrite.Format(text); !bytes.Equal(formatted, text) {
		stop(fmt.Errorf("terraform fmt writes it so:\n%s", formatted))
	}
	body := file.Body.(*hclsyntax.Body)
	resources := map[string]map[string]json.RawMessage{}
	for _, block := range body.Blocks {
		name := block.Type
		for _, label := range block.Labels {
			name += "." + label
		}
		// A file may have several blocks of local values.
		attributes, twice := resources[name]
		if twice && name != "locals" {
			stop(fmt.Errorf("%s is there twice", name))
		}
		if !twice {
			attributes = map[string]json.RawMessage{}
		}
		for key, attribute := range block.Body.Attributes {
			// Terraform itself reads this one: it is a name, not a value.
			if key == "provider" {
				name := attribute.Expr.Range().SliceBytes(text)
				attributes[key], _ = json.Marshal(string(name))
				continue
			}
			value, problems := attribute.Expr.Value(context(body))
			if problems.HasErrors() {
				stop(problems)
			}
			attributes[key], err = ctyjson.Marshal(value, value.Type())
			if err != nil {
				stop(err)
			}
		}
		resources[name] = attributes
	}
	if err := json.NewEncoder(os.Stdout).Encode(resources); err != nil {
		stop(err)
	}
}

// What expressions may name: jsonencode, and the resources of the file by their addresses.
func context(body *hclsyntax.Body) *hcl.EvalContext {
	roles := map[string]cty.Value{}
	for _, block := range body.Blocks {
		if block.Type == "resource" && block.Labels[0] == "aws_iam_role" {
			address := "aws_iam_role." + block.Labels[1]
			roles[block.Labels[1]] = cty.ObjectVal(map[string]cty.Value{
				"arn":  cty.StringVal(address + ".arn"),
				"name": cty.StringVal(address + ".name"),
			})
		}
	}
	return &hcl.EvalContext{
		Functions: map[string]function.Function{"jsonencode": stdlib.JSONEncodeFunc},
		Variables: map[string]cty.Value{"aws_iam_role": cty.ObjectVal(roles)},
	}
}

func stop(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
