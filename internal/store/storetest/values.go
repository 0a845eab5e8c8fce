package storetest

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// App returns an app named name with every field set.
func App(name string) faas.App {
	return faas.App{
		ID: faas.NewID(), Name: name, Env: map[string]string{"A": "ü", "": ""}, MaxConcurrency: 7,
		Network: "allow", Allow: []string{"db.lan:5432", "[fd00::1]:*/udp"},
		Syslog: "tcp+tls://logs.example:6514", Shape: "GENERIC_X86",
		Annotations: map[string]string{"team": `"Bäcker"`, "": ""}, Beside: map[string]string{"fn": `{"a":"Grüße"}`},
		Revision: 99, Created: time.Unix(1, 0), Updated: time.Unix(2, 0), // Put sets its own
	}
}

// Function returns a function named name in app with every field set, each to
// a value of its own that is not the default.
func Function(app faas.App, name string) faas.Function {
	fn := faas.Function{
		ID: faas.NewID(), App: app.ID, Name: name,
		Image: "registry.example/photos/" + name + ":7", Digest: "sha256:" + strings.Repeat("ab", 32), Format: faas.FormatPort,
		Entrypoint: []string{"/bin/sh", "-c"}, Command: []string{"convert - -resize 50% fd:1", ""},
		Env:     map[string]string{"A": "1", "PATH": "/bin:/usr/bin", "EMPTY": "", "GRUSS": "Grüß Gott \u2028 <&>\n"},
		Workdir: "/work", User: "12:34", Writable: true,
		Network: "backend", Allow: []string{"10.0.0.0/8:5432", "*.example.com:80-90/tcp"}, Isolation: faas.IsolationGVisor, Devices: []string{"/dev/kvm", "/dev/fuse"},
		Memory: 65 * faas.MB, CPU: 510, TmpSize: 3 * faas.MB,
		Timeout: 31 * time.Second, Wait: 32 * time.Second, StartTimeout: 33 * time.Second, Idle: 34*time.Second + time.Nanosecond,
		MaxConcurrency: 35, Line: 36,
		Port: 37, Concurrency: 38, Min: 39, MaxCalls: 40, Freeze: faas.FreezeNever,
		AsyncTimeout: 41 * time.Second, Delay: 42 * time.Second, Retries: 43, RetryDelay: 44 * time.Second, RetryMax: 45 * time.Second,
		OnSuccess: "https://there.example/done", OnFailure: "app/mourn", OnNodeLoss: faas.NodeLossFail, MaxResult: 46 * faas.KB, LogPayload: true,
		Profile: faas.ProfileFn, Address: "a7f1c0de-0000-4000-8000-000000000047", Shape: "GENERIC_ARM",
		Annotations: map[string]string{"team": `"Bäcker"`, "": ""}, Beside: map[string]string{"hyper/labels": `{"a":"Grüße"}`},
		Revision: 99, Created: time.Unix(1, 0), Updated: time.Unix(2, 0), // Put sets its own
	}
	return fn
}

func defaultApp(t *testing.T, s store.Store) faas.App {
	t.Helper()
	app, err := s.App(t.Context(), faas.DefaultApp)
	if err != nil {
		t.Fatal(err)
	}
	return app
}

func mustPutApp(t *testing.T, s store.Store, name string) faas.App {
	t.Helper()
	app, err := s.PutApp(t.Context(), faas.App{ID: faas.NewID(), Name: name}, store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	return app
}

func mustPut(t *testing.T, s store.Store, fn faas.Function, ifRevision int64) faas.Function {
	t.Helper()
	fn, err := s.PutFunction(t.Context(), fn, ifRevision)
	if err != nil {
		t.Fatal(err)
	}
	return fn
}

func wantKind(t *testing.T, what string, err error, want faas.Kind) {
	t.Helper()
	if got := faas.KindOf(err); got != want {
		t.Errorf("%s = %v: kind %q, want %q", what, err, got, want)
	}
}

func wantEqual[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// wantEveryField fails the test if a field of v is zero: then nothing shows that
// an engine keeps it.
func wantEveryField[T any](t *testing.T, v T) {
	t.Helper()
	of := reflect.ValueOf(v)
	for i := range of.NumField() {
		if of.Field(i).IsZero() {
			t.Fatalf("storetest leaves the field %s of %T zero: give it a value", of.Type().Field(i).Name, v)
		}
	}
}
