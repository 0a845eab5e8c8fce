package funcfile

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"hob/faas"
)

// New writes a func.yaml of version 20180708 that says f, as far as it is about
// the function itself: not tests, limits of Oracle's and build commands.
func New(f Function) ([]byte, error) {
	root, err := nodes(f)
	if err != nil {
		return nil, err
	}
	return render("func.yaml", root)
}

// Adopt writes what f says, and behind it what data says of the rest: the
// func.init.yaml that an init-image made.
func Adopt(data []byte, f Function) ([]byte, error) {
	rest, err := parse("func.init.yaml", data)
	if err != nil {
		return nil, err
	}
	root, err := nodes(f)
	if err != nil {
		return nil, err
	}
	said := map[string]bool{}
	for i := 0; i < len(root.Content); i += 2 {
		said[root.Content[i].Value] = true
	}
	for i := 0; i+1 < len(rest.Content); i += 2 {
		if !said[rest.Content[i].Value] {
			root.Content = append(root.Content, rest.Content[i], rest.Content[i+1])
		}
	}
	return render("func.yaml", root)
}

// nodes is f as a file says it.
func nodes(f Function) (*yaml.Node, error) {
	root := &yaml.Node{Kind: yaml.MappingNode}
	set := func(key string, value *yaml.Node) { root.Content = append(root.Content, text(key), value) }
	set("schema_version", number(Schema))
	for _, part := range []struct{ key, value string }{
		{"name", f.Name}, {"version", f.Version}, {"runtime", f.Runtime}, {"image", f.Image}, {"build_image", f.BuildImage}, {"run_image", f.RunImage},
		{"entrypoint", strings.Join(f.Entrypoint, " ")}, {"cmd", strings.Join(f.Cmd, " ")},
		{"content_type", f.ContentType}, {"format", f.Format},
	} {
		if part.value != "" {
			set(part.key, text(part.value))
		}
	}
	if f.Memory > 0 {
		set("memory", number(int(f.Memory/faas.MB)))
	}
	if f.Timeout > 0 {
		set("timeout", number(int(f.Timeout.Seconds())))
	}
	if f.IdleTimeout > 0 {
		set("idle_timeout", number(int(f.IdleTimeout.Seconds())))
	}
	if len(f.Config) > 0 {
		config := &yaml.Node{Kind: yaml.MappingNode}
		for _, k := range slices.Sorted(maps.Keys(f.Config)) {
			config.Content = append(config.Content, text(k), text(f.Config[k]))
		}
		set("config", config)
	}
	if len(f.Annotations) > 0 {
		all, err := annotationNodes(f.Annotations)
		if err != nil {
			return nil, err
		}
		set("annotations", all)
	}
	if len(f.Triggers) > 0 {
		set("triggers", triggerNodes(f.Triggers))
	}
	return root, nil
}

func annotationNodes(annotations map[string]string) (*yaml.Node, error) {
	all := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range slices.Sorted(maps.Keys(annotations)) {
		var v any
		value := &yaml.Node{}
		if err := json.Unmarshal([]byte(annotations[k]), &v); err != nil {
			return nil, faas.Errorf(faas.Invalid, "the value of annotation %s is no JSON: %w", k, err)
		}
		if err := value.Encode(v); err != nil {
			return nil, faas.Errorf(faas.Invalid, "annotation %s: %w", k, err)
		}
		all.Content = append(all.Content, text(k), value)
	}
	return all, nil
}

func triggerNodes(triggers []Trigger) *yaml.Node {
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for _, t := range triggers {
		one := []*yaml.Node{text("name"), text(t.Name), text("type"), text(t.Type), text("source"), text(t.Source)}
		if t.Async != nil {
			one = append(one, text("async"), &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(*t.Async)})
		}
		if len(t.Headers) > 0 {
			one = append(one, text("headers"), headerNodes(t.Headers))
		}
		if t.Key != "" {
			one = append(one, text("key"), text(t.Key))
		}
		if t.Convention != "" {
			one = append(one, text("convention"), text(t.Convention))
		}
		list.Content = append(list.Content, &yaml.Node{Kind: yaml.MappingNode, Content: one})
	}
	return list
}

func headerNodes(headers map[string][]string) *yaml.Node {
	all := &yaml.Node{Kind: yaml.MappingNode}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		values := &yaml.Node{Kind: yaml.SequenceNode}
		for _, value := range headers[name] {
			values.Content = append(values.Content, text(value))
		}
		all.Content = append(all.Content, text(name), values)
	}
	return all
}

func text(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

func number(n int) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.Itoa(n)}
}
