package client_test

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"hob/client"
)

// TestStructsAreThoseOfTheDocument holds the fields of this package against the
// OpenAPI document that the server gives.
func TestStructsAreThoseOfTheDocument(t *testing.T) {
	text, err := os.ReadFile("../internal/api/core/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]any
			}
		}
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	for name, typ := range map[string]reflect.Type{
		"App": reflect.TypeFor[client.App](), "Function": reflect.TypeFor[client.Function](),
		"AppChange": reflect.TypeFor[client.AppSettings](), "FunctionChange": reflect.TypeFor[client.Settings](),
		"Trigger": reflect.TypeFor[client.Trigger](), "TriggerChange": reflect.TypeFor[client.TriggerSettings](),
		"Call": reflect.TypeFor[client.Call](), "CallTimes": reflect.TypeFor[client.CallTimes](), "CallError": reflect.TypeFor[client.CallError](),
		"CallStatus": reflect.TypeFor[client.Status](), "LogEvent": reflect.TypeFor[client.LogEvent](),
		"Sandbox": reflect.TypeFor[client.Sandbox](), "Node": reflect.TypeFor[client.Node](),
		"Image": reflect.TypeFor[client.Image](), "ImageConfig": reflect.TypeFor[client.ImageConfig](), "Layer": reflect.TypeFor[client.Layer](),
		"PullRequest": reflect.TypeFor[client.PullRequest](), "PullAuth": reflect.TypeFor[client.PullAuth](),
		"PullProgress": reflect.TypeFor[client.Progress](), "LayerProgress": reflect.TypeFor[client.LayerProgress](),
		"Pruned": reflect.TypeFor[client.Pruned](),
	} {
		var fields []string
		for f := range typ.Fields() {
			if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag != "-" {
				fields = append(fields, tag)
			}
		}
		slices.Sort(fields)
		if want := slices.Sorted(maps.Keys(doc.Components.Schemas[name].Properties)); !slices.Equal(fields, want) {
			t.Errorf("%s has %q, the document %q", typ, fields, want)
		}
	}
}
