package core

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// document is what the tests need of an OpenAPI document.
type document struct {
	Paths map[string]map[string]struct {
		OperationID string `json:"operationId"`
		Parameters  []struct {
			Name, In string
		}
		RequestBody *struct {
			Content map[string]struct{ Schema *schema }
		} `json:"requestBody"`
		Responses map[string]struct {
			Content map[string]struct{ Schema *schema }
		}
	}
	Components struct{ Schemas map[string]*schema }
}

type schema struct {
	Ref                  string `json:"$ref"`
	Type                 any
	Properties           map[string]*schema
	Required             []string
	Items                *schema
	AdditionalProperties any `json:"additionalProperties"`
	Enum                 []any
}

func readDocument(t *testing.T) document {
	t.Helper()
	var doc document
	if err := json.Unmarshal(openapi, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestDocumentNamesEveryRouteAndNoOther(t *testing.T) {
	doc := readDocument(t)
	documented := map[string]bool{}
	ids := map[string]bool{}
	for path, operations := range doc.Paths {
		for method, op := range operations {
			documented[strings.ToUpper(method)+" "+path] = true
			if op.OperationID == "" || ids[op.OperationID] {
				t.Errorf("%s %s: operationId %q is missing or not unique", method, path, op.OperationID)
			}
			ids[op.OperationID] = true
			for _, p := range op.Parameters {
				if p.In == "path" && !strings.Contains(path, "{"+p.Name+"}") {
					t.Errorf("%s %s: no %q in the path", method, path, p.Name)
				}
			}
		}
	}
	for _, r := range new(Server).routes() {
		route := r.method + " " + strings.ReplaceAll(r.path, "...}", "}")
		if !documented[route] {
			t.Errorf("%s is not in openapi.json", route)
		}
		delete(documented, route)
	}
	for _, method := range callMethods {
		for _, path := range []string{callPath, callPath + "/{path}"} {
			if !documented[method+" "+path] {
				t.Errorf("%s %s is not in openapi.json", method, path)
			}
			delete(documented, method+" "+path)
		}
	}
	for route := range documented {
		t.Errorf("openapi.json has %s, which is no route", route)
	}
}

// input are the schemas of what is read; everything else is written. What is
// read and wrong is refused, so nothing there is promised by its mere type.
var input = map[string]reflect.Type{
	"NewApp": reflect.TypeFor[appIn](), "AppChange": reflect.TypeFor[appChangeIn](),
	"NewFunction": reflect.TypeFor[functionIn](), "FunctionChange": reflect.TypeFor[changeIn](),
	"NewTrigger": reflect.TypeFor[triggerIn](), "TriggerChange": reflect.TypeFor[triggerChangeIn](),
	"PullRequest": reflect.TypeFor[pullIn](), "PullAuth": reflect.TypeFor[authIn](),
}

var output = map[string]reflect.Type{
	"Fault": reflect.TypeFor[wireFault](), "Node": reflect.TypeFor[wireNode](), "Isolation": reflect.TypeFor[wireIsolation](),
	"App": reflect.TypeFor[wireApp](), "Apps": reflect.TypeFor[wireApps](),
	"Function": reflect.TypeFor[wireFunction](), "Functions": reflect.TypeFor[wireFunctions](),
	"Trigger": reflect.TypeFor[wireTrigger](), "Triggers": reflect.TypeFor[wireTriggers](),
	"Call": reflect.TypeFor[wireCall](), "Calls": reflect.TypeFor[wireCalls](),
	"CallTimes": reflect.TypeFor[wireTimes](), "CallError": reflect.TypeFor[wireCallError](),
	"CallStatus": reflect.TypeFor[wireStatus](), "LogEvent": reflect.TypeFor[wireLogEvent](),
	"Sandbox": reflect.TypeFor[wireSandbox](), "Sandboxes": reflect.TypeFor[wireSandboxes](),
	"Top": reflect.TypeFor[wireTop](), "TopFunction": reflect.TypeFor[wireTopFunction](), "TopSandboxes": reflect.TypeFor[wireTopSandboxes](),
	"LogLine": reflect.TypeFor[wireLogLine](),
	"Image":   reflect.TypeFor[wireImage](), "Images": reflect.TypeFor[wireImages](),
	"ImageConfig": reflect.TypeFor[wireImageConfig](), "Layer": reflect.TypeFor[wireLayer](),
	"Pruned": reflect.TypeFor[wirePruned](), "PullStep": reflect.TypeFor[wirePullStep](),
	"PullProgress": reflect.TypeFor[wireProgress](), "LayerProgress": reflect.TypeFor[wireLayerProgress](),
}

func TestSchemasAreTheWireStructs(t *testing.T) {
	doc := readDocument(t)
	rest := maps.Clone(doc.Components.Schemas)
	for _, of := range []map[string]reflect.Type{input, output} {
		for name, typ := range of {
			s := rest[name]
			if s == nil {
				t.Errorf("no schema %s", name)
				continue
			}
			delete(rest, name)
			compare(t, name, s, typ)
		}
	}
	for name := range rest {
		t.Errorf("schema %s belongs to no struct", name)
	}
	for name := range input {
		if s := doc.Components.Schemas[name]; s != nil && s.AdditionalProperties != false {
			t.Errorf("schema %s does not say that other fields are refused", name)
		}
	}
}

// compare holds a schema of an object against a struct, field by field.
func compare(t *testing.T, at string, s *schema, typ reflect.Type) {
	fields := map[string]reflect.StructField{}
	collect(typ, fields)
	for name, f := range fields {
		p := s.Properties[name]
		if p == nil {
			t.Errorf("%s.%s is not in the schema", at, name)
			continue
		}
		_, reads := input[at]
		optional := strings.Contains(f.Tag.Get("json"), ",omit")
		if !reads && optional == slices.Contains(s.Required, name) {
			t.Errorf("%s.%s: left out when empty: %t; required in the schema: %t", at, name, optional, !optional)
		}
		compareType(t, at+"."+name, p, f.Type)
	}
	for name := range s.Properties {
		if _, ok := fields[name]; !ok {
			t.Errorf("schema %s has %q, the struct has not", at, name)
		}
	}
}

func collect(typ reflect.Type, into map[string]reflect.StructField) {
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			collect(f.Type, into)
		} else {
			into[name] = f
		}
	}
}

func compareType(t *testing.T, at string, s *schema, typ reflect.Type) {
	pointer := typ.Kind() == reflect.Pointer
	if pointer {
		typ = typ.Elem()
	}
	want := ""
	switch {
	case s.Ref != "":
		name := strings.TrimPrefix(s.Ref, "#/components/schemas/")
		if known := output[name]; known != typ && input[name] != typ {
			t.Errorf("%s is a %s, the schema says %s", at, typ, name)
		}
		return
	case typ == reflect.TypeFor[time.Time]():
		want = "string"
	case typ == reflect.TypeFor[json.Number]():
		want = "number"
	case typ == reflect.TypeFor[amount]():
		want = "string" // beside a number
	case typ.Kind() == reflect.Struct:
		compare(t, at, s, typ)
		return
	case typ.Kind() == reflect.String:
		want = "string"
	case typ.Kind() == reflect.Bool:
		want = "boolean"
	case typ.Kind() == reflect.Float64:
		want = "number"
	case typ.Kind() == reflect.Int || typ.Kind() == reflect.Int64 || typ.Kind() == reflect.Uint64:
		want = "integer"
	case typ.Kind() == reflect.Slice:
		want = "array"
		if s.Items == nil {
			t.Errorf("%s: the schema does not say of what the list is", at)
		} else {
			compareType(t, at+"[]", s.Items, typ.Elem())
		}
	case typ.Kind() == reflect.Map:
		want = "object"
	default:
		t.Errorf("%s: no rule for %s", at, typ)
	}
	types, _ := s.Type.([]any)
	if one, ok := s.Type.(string); ok {
		types = []any{one}
	}
	if !slices.Contains(types, any(want)) {
		t.Errorf("%s is a %s, which is %q; the schema says %v", at, typ, want, s.Type)
	}
}
