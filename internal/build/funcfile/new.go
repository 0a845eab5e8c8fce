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
		all := &yaml.Node{Kind: yaml.MappingNode}
		for _, k := range slices.Sorted(maps.Keys(f.Annotations)) {
			var v any
			value := &yaml.Node{}
			if err := json.Unmarshal([]byte(f.Annotations[k]), &v); err != nil {
				return nil, faas.Errorf(faas.Invalid, "the value of annotation %s is no JSON: %w", k, err)
			}
			if err := value.Encode(v); err != nil {
				return nil, faas.Errorf(faas.Invalid, "annotation %s: %w", k, err)
			}
			all.Content = append(all.Content, text(k), value)
		}
		set("annotations", all)
	}
	if len(f.Triggers) > 0 {
		set("triggers", triggerNodes(f.Triggers))
	}
	return render("func.yaml", root)
}

// Adopt gives a file that an init-image made (its func.init.yaml) schema, name and
// version in front of what it says.
func Adopt(data []byte, name, version string) ([]byte, error) {
	root, err := parse("func.init.yaml", data)
	if err != nil {
		return nil, err
	}
	kept := []*yaml.Node{text("schema_version"), number(Schema), text("name"), text(name), text("version"), text(version)}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if !slices.Contains([]string{"schema_version", "name", "version"}, root.Content[i].Value) {
			kept = append(kept, root.Content[i], root.Content[i+1])
		}
	}
	root.Content = kept
	return render("func.yaml", root)
}

func triggerNodes(triggers []Trigger) *yaml.Node {
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for _, t := range triggers {
		list.Content = append(list.Content, &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{
			text("name"), text(t.Name), text("type"), text(t.Type), text("source"), text(t.Source)}})
	}
	return list
}

func text(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

func number(n int) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.Itoa(n)}
}
