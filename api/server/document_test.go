package server

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/instance"
)

// document is as much of OpenAPI as the project uses.
type document struct {
	OpenAPI    string `yaml:"openapi"`
	Paths      map[string]map[string]yaml.Node
	Components struct {
		RequestBodies map[string]content `yaml:"requestBodies"`
		Responses     map[string]content
		Schemas       map[string]schema
	}
}

type operation struct {
	OperationID string `yaml:"operationId"`
	Progress    bool   `yaml:"x-progress"`
	Parameters  []struct{ Name, In string }
	RequestBody *reference `yaml:"requestBody"`
	Responses   map[string]struct {
		reference `yaml:",inline"`
		content   `yaml:",inline"`
	}
}

type reference struct {
	Ref string `yaml:"$ref"`
}

// name is the last part of the reference.
func (r reference) name() string { return r.Ref[strings.LastIndex(r.Ref, "/")+1:] }

type content struct {
	Content map[string]struct{ Schema reference }
}

type schema struct {
	reference            `yaml:",inline"`
	Type                 string
	Enum                 []string
	Required             []string
	Properties           map[string]schema
	Items                *schema
	AdditionalProperties *schema `yaml:"additionalProperties"`
	Encoding             string  `yaml:"contentEncoding"`
}

func readDocument(t *testing.T) document {
	t.Helper()
	var d document
	if err := yaml.Unmarshal(api.Document(), &d); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(d.OpenAPI, "3.1.") || len(d.Paths) == 0 {
		t.Fatalf("the document says it is OpenAPI %q and has %d paths", d.OpenAPI, len(d.Paths))
	}
	return d
}

// operations returns the document's operations by "METHOD path".
func (d document) operations(t *testing.T) map[string]operation {
	t.Helper()
	all := map[string]operation{}
	for path, item := range d.Paths {
		for key, node := range item {
			if key == "parameters" {
				continue
			}
			var o operation
			if err := node.Decode(&o); err != nil {
				t.Fatalf("%s %s: %v", key, path, err)
			}
			all[strings.ToUpper(key)+" "+path] = o
		}
		if _, ok := item["parameters"]; ok != strings.Contains(path, "{id}") {
			t.Errorf("%s: the parameter of the path is not described", path)
		}
	}
	return all
}

func TestDocumentHasTheRoutes(t *testing.T) {
	described := readDocument(t).operations(t)
	ids := map[string]bool{}
	for _, route := range New(Config{Manager: &fake{}}).Routes() {
		key := route.Method + " " + route.Path
		o, ok := described[key]
		if !ok {
			t.Errorf("%s is not in the document", key)
			continue
		}
		delete(described, key)
		if ids[o.OperationID] || o.OperationID == "" {
			t.Errorf("%s: operationId %q is not unique", key, o.OperationID)
		}
		ids[o.OperationID] = true
		if o.Progress != route.Long {
			t.Errorf("%s: x-progress is %v", key, o.Progress)
		}
		var query []string
		for _, p := range o.Parameters {
			query = append(query, p.Name)
		}
		if diff := cmp.Diff(route.Query, query); diff != "" {
			t.Errorf("%s: parameters: %s", key, diff)
		}
		body := ""
		if o.RequestBody != nil {
			body = o.RequestBody.name()
		}
		if want := typeName(route.Body); body != want {
			t.Errorf("%s: the document's body is %q, the server's %q", key, body, want)
		}
		success, ok := o.Responses[status(route)]
		if !ok {
			t.Errorf("%s: the document lacks the status %d", key, route.Status)
		}
		if want := typeName(route.Result); want != "" && success.name() != want {
			t.Errorf("%s: the document's answer is %q, the server's %q", key, success.name(), want)
		}
		if _, ok := o.Responses["default"]; !ok && route.Path != "/openapi.yaml" {
			t.Errorf("%s: the document lacks the problem", key)
		}
	}
	for key := range described {
		t.Errorf("%s is in the document and not served", key)
	}
}

func status(r Route) string { text, _ := json.Marshal(r.Status); return string(text) }

func typeName(t reflect.Type) string {
	if t == nil {
		return ""
	}
	return t.Name()
}

// A component of a body or an answer has the name of its schema.
func TestDocumentReferences(t *testing.T) {
	d := readDocument(t)
	for _, set := range []map[string]content{d.Components.RequestBodies, d.Components.Responses} {
		for name, c := range set {
			for _, media := range c.Content {
				if media.Schema.name() != name {
					t.Errorf("%s refers to the schema %q", name, media.Schema.name())
				}
			}
		}
	}
}

// enumerations are the named strings of the API.
var enumerations = map[string][]string{
	"State": texts(instance.Stopped, instance.Starting, instance.Running, instance.Paused, instance.Standby,
		instance.Stopping, instance.Failed, instance.Unknown),
	"Backend": texts(instance.File, instance.Uffd, instance.Auto),
}

func texts[S ~string](values ...S) []string {
	var out []string
	for _, v := range values {
		out = append(out, string(v))
	}
	return out
}

func TestDocumentHasTheTypes(t *testing.T) {
	types := map[string]reflect.Type{}
	for _, route := range New(Config{Manager: &fake{}}).Routes() {
		collect(t, types, route.Body)
		collect(t, types, route.Result)
	}
	for _, v := range []any{api.Message{}, api.Problem{}, instance.Event{}} {
		collect(t, types, reflect.TypeOf(v))
	}
	schemas := readDocument(t).Components.Schemas
	for name, typ := range types {
		described, ok := schemas[name]
		if !ok {
			t.Errorf("the document lacks the schema %s", name)
			continue
		}
		var names, required []string
		for _, f := range reflect.VisibleFields(typ) {
			field, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !f.IsExported() || field == "-" {
				continue
			}
			if field == "" {
				t.Errorf("%s.%s has no name in JSON", name, f.Name)
			}
			names = append(names, field)
			if !strings.Contains(options, "omitempty") {
				required = append(required, field)
			}
			compare(t, name+"."+field, described.Properties[field], f.Type)
		}
		sorted := cmp.Transformer("sort", func(in []string) []string { return slices.Sorted(slices.Values(in)) })
		if diff := cmp.Diff(names, slices.Collect(maps.Keys(described.Properties)), sorted); diff != "" {
			t.Errorf("%s: fields of the type (-) and of the document (+): %s", name, diff)
		}
		if diff := cmp.Diff(required, described.Required, sorted); diff != "" {
			t.Errorf("%s: fields that are always there in the type (-) and in the document (+): %s", name, diff)
		}
	}
	for name, s := range schemas {
		values, ok := enumerations[name]
		if !ok && types[name] == nil {
			t.Errorf("the schema %s is no type of the API", name)
		}
		if diff := cmp.Diff(values, s.Enum); diff != "" {
			t.Errorf("%s: values: %s", name, diff)
		}
	}
}

// collect adds the structs that a type holds, by their names.
func collect(t *testing.T, types map[string]reflect.Type, typ reflect.Type) {
	t.Helper()
	if typ == nil || typ == reflect.TypeFor[time.Time]() || typ == reflect.TypeFor[json.RawMessage]() {
		return
	}
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		collect(t, types, typ.Elem())
	case reflect.Struct:
		if known := types[typ.Name()]; known != nil {
			if known != typ {
				t.Errorf("%v and %v have the same name", known, typ)
			}
			return
		}
		types[typ.Name()] = typ
		for _, f := range reflect.VisibleFields(typ) {
			if f.IsExported() && f.Tag.Get("json") != "-" {
				collect(t, types, f.Type)
			}
		}
	}
}

// compare compares the description of a field with its Go type.
func compare(t *testing.T, where string, s schema, typ reflect.Type) {
	t.Helper()
	wrong := func() { t.Errorf("%s is %v, the document says %+v", where, typ, s) }
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	want := map[reflect.Kind]string{reflect.String: "string", reflect.Bool: "boolean", reflect.Map: "object", reflect.Slice: "array",
		reflect.Int: "integer", reflect.Int64: "integer", reflect.Uint32: "integer", reflect.Uint64: "integer", reflect.Float64: "number"}[typ.Kind()]
	switch {
	case typ == reflect.TypeFor[json.RawMessage]():
		if s.Type != "" || s.Ref != "" {
			wrong()
		}
	case typ == reflect.TypeFor[time.Time]():
		if s.Type != "string" {
			wrong()
		}
	case typ == reflect.TypeFor[[]byte]():
		if s.Type != "string" || s.Encoding != "base64" {
			wrong()
		}
	case typ.Kind() == reflect.Struct:
		if s.name() != typ.Name() {
			wrong()
		}
	case s.Ref != "": // an enumeration
		if _, ok := enumerations[s.name()]; !ok || s.name() != typ.Name() {
			wrong()
		}
	case want == "" || s.Type != want:
		wrong()
	case s.Items != nil:
		compare(t, where+"[]", *s.Items, typ.Elem())
	case s.AdditionalProperties != nil:
		compare(t, where+"{}", *s.AdditionalProperties, typ.Elem())
	}
}
