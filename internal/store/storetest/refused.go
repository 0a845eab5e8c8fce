package storetest

import (
	"testing"

	"hob/faas"
	"hob/internal/store"
)

func refusedPut(t *testing.T, s store.Store) {
	fn := mustPut(t, s, Function(defaultApp(t, s), "resize"), store.IfNew)
	watch := s.Watch(t.Context())
	changed := fn.Clone()
	changed.Image = "other"
	_, err := s.PutFunction(t.Context(), changed, 7)
	wantKind(t, "Put at a wrong revision", err, faas.Conflict)
	got, err := s.Function(t.Context(), fn.App, fn.Name)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "Function after a refused Put", got, fn)
	last := mustPut(t, s, fn, store.AnyRevision)
	if first := take(t, watch, 1)[0]; first.Function == nil || first.Function.Revision != last.Revision {
		t.Errorf("first change %+v, want the Put that was not refused", first)
	}
}

func badPut(t *testing.T, s store.Store) {
	app := defaultApp(t, s)
	for what, spoil := range map[string]func(*faas.Function){
		"no ID":                func(fn *faas.Function) { fn.ID = "" },
		"no name":              func(fn *faas.Function) { fn.Name = "" },
		"variable not UTF-8":   func(fn *faas.Function) { fn.Env = map[string]string{"A": "\xff"} },
		"name not UTF-8":       func(fn *faas.Function) { fn.Name = "a\xff" },
		"argument not UTF-8":   func(fn *faas.Function) { fn.Command = []string{"\xff"} },
		"entrypoint not UTF-8": func(fn *faas.Function) { fn.Entrypoint = []string{"\xff"} },
		"image not UTF-8":      func(fn *faas.Function) { fn.Image = "\xff" },
		"rule not UTF-8":       func(fn *faas.Function) { fn.Allow = []string{"\xff"} },
		"device not UTF-8":     func(fn *faas.Function) { fn.Devices = []string{"/dev/\xff"} },
		"isolation not UTF-8":  func(fn *faas.Function) { fn.Isolation = "\xff" },
		"workdir not UTF-8":    func(fn *faas.Function) { fn.Workdir = "/\xff" },
		"shape not UTF-8":      func(fn *faas.Function) { fn.Shape = "\xff" },
		"profile not UTF-8":    func(fn *faas.Function) { fn.Profile = "\xff" },
		"annotation not UTF-8": func(fn *faas.Function) { fn.Annotations = map[string]string{"\xff": ""} },
		"beside not UTF-8":     func(fn *faas.Function) { fn.Beside = map[string]string{"": "\xff"} },
	} {
		fn := Function(app, "resize")
		spoil(&fn)
		_, err := s.PutFunction(t.Context(), fn, store.IfNew)
		wantKind(t, what, err, faas.Invalid)
	}
	_, err := s.PutFunction(t.Context(), Function(app, "resize"), -2)
	wantKind(t, "revision -2", err, faas.Invalid)
	for what, bad := range map[string]faas.App{
		"no ID": {Name: "x"}, "no name": {ID: "x"}, "variable not UTF-8": {ID: "x", Name: "x", Env: map[string]string{"\xff": ""}},
		"annotation not UTF-8": {ID: "x", Name: "x", Annotations: map[string]string{"": "\xff"}},
		"beside not UTF-8":     {ID: "x", Name: "x", Beside: map[string]string{"\xff": ""}},
		"syslog not UTF-8":     {ID: "x", Name: "x", Syslog: "\xff"}, "shape not UTF-8": {ID: "x", Name: "x", Shape: "\xff"},
		"network not UTF-8": {ID: "x", Name: "x", Network: "\xff"}, "rule not UTF-8": {ID: "x", Name: "x", Allow: []string{"a", "\xff"}},
	} {
		_, err := s.PutApp(t.Context(), bad, store.IfNew)
		wantKind(t, "app with "+what, err, faas.Invalid)
	}
}
