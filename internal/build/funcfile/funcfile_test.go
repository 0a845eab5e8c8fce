package funcfile

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"hob/faas"
)

const version1 = `# a function of the old days
name: ada/hello   # of an image
version: 0.0.9
runtime: go
entrypoint: ./func --name "Ada Lovelace"
memory: 256
timeout: 1m
format: http
idle_timeout: 45
path: /hello
type: async
headers:
  X-Level: ["1", 2]
  X-Other: a
jwt_key: secret
network: none
isolation: gvisor
allow: []
config:
  LEVEL: 3
  ON: yes
expects:
  config:
    - name: LEVEL
      required: true
tests:
  - name: greets
    in: Ada
    out: Hello Ada
build:
  - go vet
max_concurrency: "2"
`

const version2 = `{
  "schema_version": 20180708,
  "name": "hello",
  "version": "1.2.3",
  "memory": "128m",
  "cpus": "500m",
  "network": "db", "allow": ["10.1.2.3:5432", "*.example.com:443/tcp"], "devices": ["/dev/kvm"],
  "annotations": {"example.org/team": {"name": "blue"}},
  "triggers": [{"name": "all", "source": "all"}],
  "deploy": {"oci": {
    "provisioned_concurrency": {"strategy": "CONSTANT", "count": 4},
    "detached_mode": {"timeout": "20m", "on_success": {"type": "stream", "ocid": "ocid1.stream.oc1..x"}, "on_failure": {"ocid": "ops/alarm"}},
    "freeform_tags": {"stage": "test"}
  }},
  "memroy": 1
}
`

func TestVersionOneIsRead(t *testing.T) {
	f, err := Parse("func.yaml", []byte(version1))
	if err != nil {
		t.Fatal(err)
	}
	out := "Hello Ada"
	want := Function{
		Path: "func.yaml", Name: "ada/hello", Version: "0.0.9", Runtime: "go", Entrypoint: []string{"./func", "--name", "Ada Lovelace"},
		Memory: 256 * faas.MB, Timeout: time.Minute, Format: "http", IdleTimeout: 45 * time.Second, Type: "async",
		Config:  map[string]string{"LEVEL": "3", "ON": "yes"},
		Expects: []Expect{{"LEVEL", true}},
		Triggers: []Trigger{{
			Name: "hello", Type: "http", Source: "/hello", Async: new(true), Key: "secret", Convention: "fn",
			Headers: map[string][]string{"X-Level": {"1", "2"}, "X-Other": {"a"}},
		}},
		Tests: []Test{{Name: "greets", In: "Ada", Out: &out}},
		Build: []string{"go vet"}, MaxConcurrency: 2, Network: "none", Isolation: "gvisor", Allow: []string{},
	}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("got  %+v\nwant %+v", f, want)
	}
}

func TestVersionTwoIsRead(t *testing.T) {
	f, err := Parse("func.json", []byte(version2))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Notes) != 2 {
		t.Errorf("notes %q", f.Notes)
	}
	f.Notes = nil
	want := Function{
		Path: "func.json", Schema: true, Name: "hello", Version: "1.2.3", Memory: 128 * faas.MB, CPUs: 500, Min: new(4),
		Network: "db", Allow: []string{"10.1.2.3:5432", "*.example.com:443/tcp"}, Devices: []string{"/dev/kvm"},
		AsyncTimeout: 20 * time.Minute, OnFailure: "ops/alarm", Triggers: []Trigger{{Name: "all", Type: "http", Source: "/all"}},
		Annotations: map[string]string{"example.org/team": `{"name":"blue"}`, AnnotationFreeform: `{"stage":"test"}`},
	}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("got  %+v\nwant %+v", f, want)
	}
}

func TestRouteOfVersionOneIsATrigger(t *testing.T) {
	for file, want := range map[string][]Trigger{
		"name: f":                          {{Name: "f", Type: "http", Source: "/f", Implied: true, Convention: "fn"}},
		"name: f\ntype: sync":              {{Name: "f", Type: "http", Source: "/f", Implied: true, Convention: "fn", Async: new(false)}},
		"name: f\npath: f/:id":             {{Name: "f", Type: "http", Source: "/f/:id", Convention: "fn"}},
		"name: u/f\ntype: async":           {{Name: "f", Type: "http", Source: "/f", Implied: true, Convention: "fn", Async: new(true)}},
		"name: f\nheaders: {A: b}":         {{Name: "f", Type: "http", Source: "/f", Implied: true, Convention: "fn", Headers: map[string][]string{"A": {"b"}}}},
		"name: f\njwt_key: k\nheaders: {}": {{Name: "f", Type: "http", Source: "/f", Implied: true, Convention: "fn", Key: "k"}},
		"schema_version: 20180708\nname: f\ntriggers: [{name: t, source: t, async: true, key: k, headers: {A: b}, convention: iron}]": {
			{Name: "t", Type: "http", Source: "/t", Async: new(true), Key: "k", Convention: "iron", Headers: map[string][]string{"A": {"b"}}}},
		"schema_version: 20180708\nname: f\ntype: async\njwt_key: k\nheaders: {A: b}\npath: /f": nil,
	} {
		if f, err := Parse("func.yaml", []byte(file)); err != nil || !reflect.DeepEqual(f.Triggers, want) {
			t.Errorf("%q: %+v, %v; want %+v", file, f.Triggers, err, want)
		}
	}
}

func TestDeploySectionIsReadInBothWritings(t *testing.T) {
	const head = "schema_version: 20180708\nname: f\ndeploy: {oci: {"
	for file, want := range map[string]Function{
		"provisioned_concurrency: 'constant:40'":                                                 {Min: new(40)},
		"provisioned_concurrency: {strategy: CONSTANT, count: 40}":                               {Min: new(40)},
		"provisioned_concurrency: none":                                                          {Min: new(0)},
		"provisioned_concurrency: {strategy: NONE}":                                              {Min: new(0)},
		"provisioned_concurrency: ~":                                                             {},
		"detached_mode: {timeout: 1h, on_success: 'https://h/x', on_failure: {ocid: ops/alarm}}": {AsyncTimeout: time.Hour, OnSuccess: "https://h/x", OnFailure: "ops/alarm"},
		"detached_timeout: 90":                                                                   {AsyncTimeout: 90 * time.Second},
		"detached_mode: {on_success: 'stream:ocid1.stream.oc1..x'}":                              {Notes: []string{"a place"}},
		"freeform_tags: {stage: test}, defined_tags: {ops: {owner: ada, n: 3}}":                  {Annotations: map[string]string{AnnotationFreeform: `{"stage":"test"}`, AnnotationDefined: `{"ops":{"n":3,"owner":"ada"}}`}},
	} {
		f, err := Parse("func.yaml", []byte(head+file+"}}"))
		if len(f.Notes) != len(want.Notes) {
			t.Errorf("%s: notes %q", file, f.Notes)
		}
		want.Path, want.Schema, want.Name, want.Notes, f.Notes = "func.yaml", true, "f", nil, nil
		if err != nil || !reflect.DeepEqual(f, want) {
			t.Errorf("%s: %v\n got %+v\nwant %+v", file, err, f, want)
		}
	}
	for file, want := range map[string]string{
		"provisioned_concurrency: 'constant:many'":                `the count of deploy.oci.provisioned_concurrency is "many", and a whole number from 1`,
		"provisioned_concurrency: {strategy: CONSTANT}":           `the count of deploy.oci.provisioned_concurrency is ""`,
		"provisioned_concurrency: {strategy: CONSTANT, count: 0}": `is "0"`,
		"provisioned_concurrency: 'burst:4'":                      `the strategy of deploy.oci.provisioned_concurrency is "burst", and none or constant is wanted`,
		"detached_mode: {timeout: soon}":                          `deploy.oci.detached_mode.timeout is "soon"`,
		"freeform_tags: [a]":                                      "deploy.oci.freeform_tags is a list, and an object is wanted",
	} {
		if _, err := Parse("func.yaml", []byte(head+file+"}}")); faas.KindOf(err) != faas.Invalid || !strings.Contains(err.Error(), "func.yaml:3: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", file, err, want)
		}
	}
}

func TestFormatFollowsTheVersion(t *testing.T) {
	for file, want := range map[string]string{
		"name: f":                           "default",
		"name: f\nformat: http":             "http",
		"name: f\nschema_version: 20180708": "http-stream",
		"name: f\nschema_version: 20180708\nformat: default": "default",
	} {
		if f, err := Parse("func.yml", []byte(file)); err != nil || f.FormatOr() != want {
			t.Errorf("%q: %s, %v; want %s", file, f.FormatOr(), err, want)
		}
	}
}

func TestMistakesAreToldWithTheirLine(t *testing.T) {
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	for _, c := range []struct{ file, content, want string }{
		{"func.yaml", "", "func.yaml is empty"},
		{"func.yaml", "# nothing\n", "func.yaml is empty"},
		{"func.json", "", "func.json is empty"},
		{"func.yaml", "version: 1.0.0", "func.yaml has no name"},
		{"func.yaml", "- a", "func.yaml:1: an object is wanted. Please update your func.yaml to satisfy the schema."},
		{"func.yaml", "name: f\nmemory: lots", `func.yaml:2: memory is "lots", and a number of MB, or a size such as 128m, is wanted. Please update your func.yaml to satisfy the schema.`},
		{"func.yaml", "name: f\ntype: later", `func.yaml:2: type is "later", and sync or async is wanted. Please update your func.yaml to satisfy the schema.`},
		{"func.yaml", "name: f\nheaders: {A: {b: c}}", `func.yaml:2: headers.A is an object, and text is wanted. Please update your func.yaml to satisfy the schema.`},
		{"func.yaml", "name: f\n\ntimeout: [1]", `func.yaml:3: timeout is a list, and a number of seconds, or a time such as 1m30s, is wanted. Please update your func.yaml to satisfy the schema.`},
		{"func.yaml", "schema_version: 20180708\nname: 7", `func.yaml:2: name is 7, and text is wanted. Please update your func.yaml to satisfy the schema.`},
		{"func.yaml", "schema_version: 3\nname: f", `func.yaml:1: schema_version 3 is not known: it is 20180708, or not there. Please update your func.yaml to satisfy the schema.`},
		{"func.json", "{\n \"name\": \"f\",\n \"config\": [\"a\"]}", `func.json:3: config is a list, and an object is wanted. Please update your func.json to satisfy the schema.`},
		{"func.yaml", "name: f\nname: g", "func.yaml:2: name is there twice"},
		{"func.json", `{"name": "f", "name": "g"}`, "func.json:1: name is there twice"},
		{"func.json", `{"name": "f"`, "func.json: the JSON ends too early"},
		{"func.json", `{"name": "f"} {}`, "func.json: more than one document"},
		{"func.yaml", "name: f\n---\nname: g", "func.yaml: more than one document"},
		{"func.yaml", "name: \xff", "func.yaml is not text in UTF-8"},
		{"func.yaml", "base: &b {a: 1}\nname: f\nconfig:\n  <<: *b", "func.yaml:4: << is not read: write the keys themselves"},
		{"func.yaml", "name: f\nannotations: {a: " + deep + "}", "func.yaml:2: nested deeper than the limit of 32"},
		{"func.yaml", "name: f\nannotations: " + strings.Repeat("[", 1000), "func.yaml: brackets are nested too deep"},
		{"func.json", `{"name": "f", "annotations": ` + deep + "}", "func.json: nested too deep"},
		{"func.yaml", "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\ne: [*d, *d, *d]",
			"func.yaml:1: more than the limit of 20000 keys and values"},
		{"func.yaml", "a: &a [*a]\nname: f", "func.yaml:1: nested deeper than the limit of 32"},
		{"func.yaml", strings.Repeat("#", MaxBytes+1), "func.yaml is over the limit of 1 MB"},
		{"func.yaml", "name: f\ntriggers:\n- name: a", "func.yaml:3: triggers[0] needs a name and a source. Please update your func.yaml to satisfy the schema."},
		{"func.yaml", "name: f\nnetwork: The LAN", `func.yaml:2: network "The LAN" is not none, open, allow, host, or the name of a network of this node (at most 63 of the characters a-z, 0-9, '-', '_' and '.'). Please update your func.yaml to satisfy the schema.`},
		{"func.yaml", "name: f\nallow:\n- db.lan:5432\n- db.lan", `func.yaml:4: allow "db.lan": it names no port (want HOST:PORT such as api.example.com:443, 10.0.0.0/8:5432 or [fd00::1]:80). Please update your func.yaml to satisfy the schema.`},
		{"func.yaml", "name: f\nallow: db.lan:5432", `func.yaml:2: allow is "db.lan:5432", and a list is wanted. Please update your func.yaml to satisfy the schema.`},
		{"func.yaml", "name: f\nentrypoint: a 'b", "func.yaml:2: entrypoint has a quote that is not closed. Please update your func.yaml to satisfy the schema."},
		{"func.yaml", "name: f\nmemory: -1", "func.yaml:2: memory is -1, and a whole number up to 2147483647 is wanted. Please update your func.yaml to satisfy the schema."},
	} {
		_, err := Parse(c.file, []byte(c.content))
		if err == nil || err.Error() != c.want {
			t.Errorf("%.60q:\n got %v\nwant %s", c.content, err, c.want)
		}
		if kind := faas.KindOf(err); kind != faas.Invalid && kind != faas.TooLarge {
			t.Errorf("%.60q: kind %s", c.content, kind)
		}
	}
}

func TestFileThatIsNoFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "func.yaml")); err != nil {
		t.Fatal(err)
	}
	file, err := Find(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = Read(file); faas.KindOf(err) != faas.Invalid || !strings.HasSuffix(err.Error(), "is no regular file") {
		t.Errorf("a link to a device: %v", err)
	}
	big := filepath.Join(dir, "func.json")
	if err := os.WriteFile(big, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, 100<<20); err != nil {
		t.Fatal(err)
	}
	if _, err = Read(big); faas.KindOf(err) != faas.TooLarge {
		t.Errorf("a file of 100 MB: %v", err)
	}
	if _, err = FindApp(dir); faas.KindOf(err) != faas.NotFound {
		t.Errorf("FindApp without a file: %v", err)
	}
}

func TestAppFileIsRead(t *testing.T) {
	a, err := ParseApp("app.yaml", []byte("name: shop\nconfig: {LEVEL: 1}\nsyslog_url: tcp://log:514\nannotations: {a: [1, 2]}\ncolour: red\nnetwork: allow\nallow: [\"db.lan:5432\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := App{Path: "app.yaml", Name: "shop", Config: map[string]string{"LEVEL": "1"}, Annotations: map[string]string{"a": "[1,2]"},
		Syslog: "tcp://log:514", Network: "allow", Allow: []string{"db.lan:5432"}, Notes: []string{"app.yaml:5: colour is not known, and does nothing"}}
	if !reflect.DeepEqual(a, want) {
		t.Errorf("got %+v", a)
	}
}

func TestVersionsCountUp(t *testing.T) {
	for _, c := range []struct {
		version string
		part    Part
		want    string
	}{
		{"", Patch, "0.0.1"}, {"0.0.9", Patch, "0.0.10"}, {"1.2.3", Minor, "1.3.0"}, {"1.2.3", Major, "2.0.0"}, {"1.2.3-rc1", Patch, "1.2.4"},
		{"1.2", Patch, ""}, {"a.b.c", Patch, ""}, {"1.2.3.4", Patch, ""}, {"1.2.99999999999", Patch, ""}, {"1.2.3", "", ""},
	} {
		if got, err := Next(c.version, c.part); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("Next(%q, %s) = %q, %v", c.version, c.part, got, err)
		}
	}
}

func TestNewVersionChangesNothingElse(t *testing.T) {
	for _, c := range []struct{ file, before, after string }{
		{"func.yaml", version1, strings.Replace(version1, "0.0.9", "0.1.0", 1)},
		{"func.json", version2, strings.Replace(version2, "1.2.3", "0.1.0", 1)},
		{"func.yaml", "# top\n\nname: f # é\nversion: '0.0.1'   # why\r\nx: y", "# top\n\nname: f # é\nversion: '0.1.0'   # why\r\nx: y"},
		{"func.yaml", "\ufeffversion: \"0.0.1\"\nname: f", "\ufeffversion: \"0.1.0\"\nname: f"},
		{"func.yaml", "# top\nname: f\n", "# top\nversion: 0.1.0\nname: f\n"},
		{"func.yaml", "  name: f\n  memory: 8\n", "  version: 0.1.0\n  name: f\n  memory: 8\n"},
		{"func.yaml", "{name: f, version: 0.0.1}", "{name: f, version: 0.1.0}"},
		{"func.json", "{\n  \"name\": \"f\"\n}", "{\n  \"version\": \"0.1.0\",\n  \"name\": \"f\"\n}"},
	} {
		got, err := SetVersion(c.file, []byte(c.before), "0.1.0")
		if err != nil || string(got) != c.after {
			t.Errorf("%q:\n got %q, %v\nwant %q", c.before, got, err, c.after)
		}
	}
	if _, err := SetVersion("func.yaml", []byte("name: f\nversion: >\n  0.0.1\n"), "0.1.0"); faas.KindOf(err) != faas.Unsupported {
		t.Errorf("a folded version: %v", err)
	}
}

func TestNewVersionGoesThroughALink(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real.yaml"), filepath.Join(dir, "func.yaml")
	if err := os.WriteFile(real, []byte("name: f\nversion: 0.0.1\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real.yaml", link); err != nil {
		t.Fatal(err)
	}
	if err := WriteVersion(link, "0.0.2"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(link)
	if err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", info.Mode(), err)
	}
	data, _ := os.ReadFile(real)
	if info, _ := os.Stat(real); string(data) != "name: f\nversion: 0.0.2\n" || info.Mode().Perm() != 0o640 {
		t.Errorf("the file is %q with mode %v", data, info.Mode())
	}
}

func TestMigratedFileSaysTheSame(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "func.yaml")
	if err := os.WriteFile(file, []byte(version1), 0o644); err != nil {
		t.Fatal(err)
	}
	before, err := Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := Migrate(file); err != nil {
		t.Fatal(err)
	}
	if kept, _ := os.ReadFile(file + ".bak"); string(kept) != version1 {
		t.Errorf("the copy is %q", kept)
	}
	text, _ := os.ReadFile(file)
	if !strings.HasPrefix(string(text), "# a function of the old days\nschema_version: 20180708\nname: ada/hello # of an image\n") {
		t.Errorf("migrated to\n%s", text)
	}
	after, err := Read(file)
	if err != nil {
		t.Fatal(err)
	}
	before.Schema, before.Type, before.Notes, after.Notes = true, "", nil, nil // the type is the trigger's
	if !reflect.DeepEqual(before, after) {
		t.Errorf("before %+v\n after %+v", before, after)
	}
	if err := Migrate(file); faas.KindOf(err) != faas.Conflict || !strings.Contains(err.Error(), "you have an up to date func.yaml file and do not need to migrate") {
		t.Errorf("migrated twice: %v", err)
	}
}

func TestMigratedTextIsQuotedWhereOldParsersReadSomethingElse(t *testing.T) {
	for _, value := range strings.Fields("yes No ON off y N ~ null 012 1e3 1_000 0x1F 0b1 12:30:00 1.50 .5 +1 .inf 2001-12-14 True") {
		headers := "headers: {A: [" + value + "]}"
		if value == "~" || value == "null" { // no text to begin with
			headers = "headers: {A: ['" + value + "']}"
		}
		got, err := migrated("func.yaml", []byte("name: f\n"+headers+"\nconfig:\n  K: "+value+"\n  on: x\n"))
		if err != nil {
			t.Fatal(err)
		}
		quoted := `"` + value + `"`
		if text := string(got); !strings.Contains(text, "- "+quoted+"\n") || !strings.Contains(text, "\n  \"on\": x\n") ||
			!strings.Contains(text, "K: "+quoted+"\n") && value != "~" && value != "null" {
			t.Errorf("%s: migrated to\n%s", value, text)
		}
	}
	got, err := migrated("func.yaml", []byte("name: f\nversion: 0.0.1\nconfig:\n  A: 3\n  B: true\n  C: 1.5\n  D: 1.2.3\n  E: none\n"))
	if err != nil || strings.Contains(string(got), `"`) {
		t.Errorf("%v: quoted without need:\n%s", err, got)
	}
}

func TestMigratedFormatIsNamed(t *testing.T) {
	got, err := migrated("func.json", []byte(`{"name": "f", "version": "0.0.1", "path": "/f", "config": {"b": 1.50, "a": "x"}}`))
	want := `{
  "schema_version": 20180708,
  "name": "f",
  "version": "0.0.1",
  "config": {
    "b": 1.50,
    "a": "x"
  },
  "format": "default",
  "triggers": [
    {
      "name": "f",
      "type": "http",
      "source": "/f",
      "convention": "fn"
    }
  ]
}
`
	if err != nil || string(got) != want {
		t.Errorf("%v:\n%s", err, got)
	}
}

func TestNewFileSaysWhatItWasMadeOf(t *testing.T) {
	want := Function{
		Path: "func.yaml", Schema: true, Name: "f", Version: "0.0.1", Runtime: "1", Entrypoint: []string{"./f", "-v"}, Format: "http",
		Memory: 64 * faas.MB, Timeout: time.Minute, IdleTimeout: time.Second, RunImage: "a:b",
		Config: map[string]string{"A": "1", "B": "x: y"}, Annotations: map[string]string{"a": `{"b":[1,"2"]}`},
		Triggers: []Trigger{{Name: "t", Type: "http", Source: "/t", Async: new(true), Headers: map[string][]string{"A": {"1", "b: c"}}, Key: "k", Convention: "fn"}},
	}
	data, err := New(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Parse("func.yaml", data); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n got %+v\nwant %+v\n%s", err, got, want, data)
	}
	data, err = Adopt([]byte("# ours\nname: other\nversion: 7.0.0\nmemory: 512\ncontent_type: text/plain\n"), want)
	if err != nil {
		t.Fatal(err)
	}
	want.ContentType = "text/plain"
	if got, err := Parse("func.yaml", data); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n got %+v\nwant %+v\n%s", err, got, want, data)
	}
	if _, err := Adopt([]byte("- a"), want); faas.KindOf(err) != faas.Invalid {
		t.Errorf("a list is adopted: %v", err)
	}
}

// FuzzParse looks that no file does harm, and that a new version changes nothing
// but the version.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{version1, version2, "", "name: f", "{name: f}", "name: f\nversion: 'a'\n", "a: &a [*a]", "? [a]\n: b", "name: !!binary aGk=\n", "\ufeffname: f\n", "name: f\rversion: 1\r"} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, content string, asJSON bool) {
		file := "func.yaml"
		if asJSON {
			file = "func.json"
		}
		_, _ = ParseApp(file, []byte(content))
		before, err := Parse(file, []byte(content))
		if err != nil {
			if kind := faas.KindOf(err); kind != faas.Invalid && kind != faas.TooLarge {
				t.Fatalf("kind %s of %v", kind, err)
			}
			return
		}
		changed, err := SetVersion(file, []byte(content), "7.8.9")
		if err != nil {
			return
		}
		after, err := Parse(file, changed)
		if err != nil {
			t.Fatal(err)
		}
		before.Version, before.Notes, after.Notes = "7.8.9", nil, nil
		if !reflect.DeepEqual(before, after) {
			t.Fatalf("before %+v\n after %+v", before, after)
		}
		if !after.Schema {
			if _, err := migrated(file, changed); err != nil {
				t.Fatal(err)
			}
		}
	})
}
