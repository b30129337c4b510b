// A provider for tests in place of hashicorp/aws. It has the real one's schema (schema.json, beside
// the program), makes no calls, and gives each resource the attributes that AWS would. The account
// of a provider is the first of its allowed_account_ids.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6/tf6server"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

type attribute struct {
	Type                         json.RawMessage
	Required, Optional, Computed bool
}

type provider struct {
	tfprotov6.ProviderServer
	own       map[string]attribute
	resources map[string]map[string]attribute
	account   string
	partition string
}

func main() {
	program, err := os.Executable()
	if err != nil {
		stop(err)
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(program), "schema.json"))
	if err != nil {
		stop(err)
	}
	var schema struct {
		Provider  map[string]attribute
		Resources map[string]map[string]attribute
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		stop(err)
	}
	serve := func() tfprotov6.ProviderServer {
		return &provider{own: schema.Provider, resources: schema.Resources, partition: "aws"}
	}
	if err := tf6server.Serve("registry.opentofu.org/hashicorp/aws", serve); err != nil {
		stop(err)
	}
}

func stop(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func (a attribute) kind() tftypes.Type {
	switch text := string(a.Type); {
	case text == `"string"`:
		return tftypes.String
	case text == `"number"`:
		return tftypes.Number
	case text == `"bool"`:
		return tftypes.Bool
	case strings.HasPrefix(text, `["map"`) || strings.Contains(text, `"map"`):
		return tftypes.Map{ElementType: tftypes.String}
	default:
		return tftypes.List{ElementType: tftypes.String}
	}
}

func schemaOf(attributes map[string]attribute) *tfprotov6.Schema {
	block := &tfprotov6.SchemaBlock{}
	for name, it := range attributes {
		block.Attributes = append(block.Attributes, &tfprotov6.SchemaAttribute{
			Name: name, Type: it.kind(), Required: it.Required, Optional: it.Optional, Computed: it.Computed,
		})
	}
	return &tfprotov6.Schema{Block: block}
}

func typeOf(attributes map[string]attribute) tftypes.Object {
	types := map[string]tftypes.Type{}
	for name, it := range attributes {
		types[name] = it.kind()
	}
	return tftypes.Object{AttributeTypes: types}
}

func (p *provider) GetMetadata(context.Context, *tfprotov6.GetMetadataRequest) (*tfprotov6.GetMetadataResponse, error) {
	metadata := &tfprotov6.GetMetadataResponse{}
	for name := range p.resources {
		metadata.Resources = append(metadata.Resources, tfprotov6.ResourceMetadata{TypeName: name})
	}
	return metadata, nil
}

func (p *provider) GetProviderSchema(context.Context, *tfprotov6.GetProviderSchemaRequest) (*tfprotov6.GetProviderSchemaResponse, error) {
	resources := map[string]*tfprotov6.Schema{}
	for name, attributes := range p.resources {
		resources[name] = schemaOf(attributes)
	}
	return &tfprotov6.GetProviderSchemaResponse{Provider: schemaOf(p.own), ResourceSchemas: resources}, nil
}

func (p *provider) ValidateProviderConfig(_ context.Context, request *tfprotov6.ValidateProviderConfigRequest) (*tfprotov6.ValidateProviderConfigResponse, error) {
	return &tfprotov6.ValidateProviderConfigResponse{PreparedConfig: request.Config}, nil
}

func (p *provider) ConfigureProvider(_ context.Context, request *tfprotov6.ConfigureProviderRequest) (*tfprotov6.ConfigureProviderResponse, error) {
	config, err := values(request.Config, typeOf(p.own))
	if err != nil {
		return nil, err
	}
	var accounts []tftypes.Value
	if err := config["allowed_account_ids"].As(&accounts); err != nil {
		return nil, err
	}
	if len(accounts) == 0 {
		return nil, fmt.Errorf("the provider has no allowed_account_ids")
	}
	if err := accounts[0].As(&p.account); err != nil {
		return nil, err
	}
	switch region := text(config["region"]); {
	case strings.HasPrefix(region, "cn-"):
		p.partition = "aws-cn"
	case strings.HasPrefix(region, "us-gov-"):
		p.partition = "aws-us-gov"
	}
	return &tfprotov6.ConfigureProviderResponse{}, nil
}

func (p *provider) StopProvider(context.Context, *tfprotov6.StopProviderRequest) (*tfprotov6.StopProviderResponse, error) {
	return &tfprotov6.StopProviderResponse{}, nil
}

func (p *provider) ValidateResourceConfig(context.Context, *tfprotov6.ValidateResourceConfigRequest) (*tfprotov6.ValidateResourceConfigResponse, error) {
	return &tfprotov6.ValidateResourceConfigResponse{}, nil
}

func (p *provider) UpgradeResourceState(_ context.Context, request *tfprotov6.UpgradeResourceStateRequest) (*tfprotov6.UpgradeResourceStateResponse, error) {
	kind := typeOf(p.resources[request.TypeName])
	state, err := request.RawState.Unmarshal(kind)
	if err != nil {
		return nil, err
	}
	upgraded, err := tfprotov6.NewDynamicValue(kind, state)
	return &tfprotov6.UpgradeResourceStateResponse{UpgradedState: &upgraded}, err
}

func (p *provider) ReadResource(_ context.Context, request *tfprotov6.ReadResourceRequest) (*tfprotov6.ReadResourceResponse, error) {
	return &tfprotov6.ReadResourceResponse{NewState: request.CurrentState}, nil
}

// Plans what AWS computes as unknown, for a new resource.
func (p *provider) PlanResourceChange(_ context.Context, request *tfprotov6.PlanResourceChangeRequest) (*tfprotov6.PlanResourceChangeResponse, error) {
	attributes := p.resources[request.TypeName]
	planned, err := p.filled(request.TypeName, request.ProposedNewState, func(name string, value tftypes.Value, _ map[string]tftypes.Value) any {
		if attributes[name].Computed && value.IsNull() {
			return tftypes.UnknownValue
		}
		return nil
	})
	return &tfprotov6.PlanResourceChangeResponse{PlannedState: planned}, err
}

func (p *provider) ApplyResourceChange(_ context.Context, request *tfprotov6.ApplyResourceChangeRequest) (*tfprotov6.ApplyResourceChangeResponse, error) {
	attributes := p.resources[request.TypeName]
	applied, err := p.filled(request.TypeName, request.PlannedState, func(name string, value tftypes.Value, all map[string]tftypes.Value) any {
		switch {
		case value.IsKnown():
			return nil
		case name == "arn" && request.TypeName == "aws_iam_role":
			path := text(all["path"])
			if path == "" {
				path = "/"
			}
			return fmt.Sprintf("arn:%s:iam::%s:role%s%s", p.partition, p.account, path, text(all["name"]))
		case attributes[name].kind().Is(tftypes.String):
			// With the account, so that a test sees which provider made it.
			return p.account + ":" + text(all["name"])
		case attributes[name].kind().Is(tftypes.Number):
			return 1
		case attributes[name].kind().Is(tftypes.Bool):
			return false
		case attributes[name].kind().Is(tftypes.Map{}):
			return map[string]tftypes.Value{}
		default:
			return []tftypes.Value{}
		}
	})
	return &tfprotov6.ApplyResourceChangeResponse{NewState: applied}, err
}

// Returns the state with the values that `with` gives; nil leaves a value unchanged.
func (p *provider) filled(resource string, state *tfprotov6.DynamicValue, with func(string, tftypes.Value, map[string]tftypes.Value) any) (*tfprotov6.DynamicValue, error) {
	attributes := p.resources[resource]
	kind := typeOf(attributes)
	all, err := values(state, kind)
	if err != nil || all == nil {
		// It is deleted.
		return state, err
	}
	next := map[string]tftypes.Value{}
	for name, value := range all {
		next[name] = value
		if changed := with(name, value, all); changed != nil {
			next[name] = tftypes.NewValue(attributes[name].kind(), changed)
		}
	}
	result, err := tfprotov6.NewDynamicValue(kind, tftypes.NewValue(kind, next))
	return &result, err
}

func values(dynamic *tfprotov6.DynamicValue, kind tftypes.Type) (map[string]tftypes.Value, error) {
	value, err := dynamic.Unmarshal(kind)
	if err != nil || value.IsNull() {
		return nil, err
	}
	var all map[string]tftypes.Value
	err = value.As(&all)
	return all, err
}

func text(value tftypes.Value) string {
	var text *string
	if !value.IsKnown() || value.As(&text) != nil || text == nil {
		return ""
	}
	return *text
}
