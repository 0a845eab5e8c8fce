package fnv2_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// deep is JSON of so many nested lists.
func deep(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

func TestMistakesInAppsAreToldInFnsWords(t *testing.T) {
	n := newNode(t)
	id := n.newApp("a1")
	long := strings.Repeat("ä", 255)
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		message                  string
	}{
		{"no name", "POST", "/v2/apps", `{}`, 400, "Missing Name"},
		{"null", "POST", "/v2/apps", `null`, 400, "Missing Name"},
		{"a name that is too long", "POST", "/v2/apps", `{"name":"` + long + `ä"}`, 400, "App name must be 255 characters or less"},
		{"a space", "POST", "/v2/apps", `{"name":"a b"}`, 400, "Invalid app name"},
		{"a dot", "POST", "/v2/apps", `{"name":"a.b"}`, 400, "Invalid app name"},
		{"dots", "POST", "/v2/apps", `{"name":".."}`, 400, "Invalid app name"},
		{"a slash", "POST", "/v2/apps", `{"name":"a/b"}`, 400, "Invalid app name"},
		{"an ID", "POST", "/v2/apps", `{"name":"a2","id":"x"}`, 400, "App ID cannot be supplied on create"},
		{"a name that is taken", "POST", "/v2/apps", `{"name":"a1"}`, 409, "App already exists"},
		{"a shape that is none", "POST", "/v2/apps", `{"name":"a2","shape":"generic_x86"}`, 400, "Invalid app shape"},
		{"syslog of another kind", "POST", "/v2/apps", `{"name":"a2","syslog_url":"ftp://x"}`, 400,
			`invalid syslog url: "ftp://x" invalid scheme, only [tcp, udp, unix, unixgram, tcp+tls] are supported`},
		{"syslog of no kind", "POST", "/v2/apps", `{"name":"a2","syslog_url":"x:1:"}`, 400,
			`invalid syslog url: "x:1:" invalid scheme, only [tcp, udp, unix, unixgram, tcp+tls] are supported`},
		{"syslog nowhere", "POST", "/v2/apps", `{"name":"a2","syslog_url":"tcp://"}`, 400,
			`syslog URL "tcp://" names no server: write tcp://HOST:PORT, or unix:///PATH`},
		{"a host with a port", "POST", "/v2/apps", `{"name":"a2","annotations":{"hob/hosts":["A:80"]}}`, 400,
			`annotation hob/hosts is ["A:80"]: a list of host names is wanted, in lower case and without port`},
		{"a variable that is none", "POST", "/v2/apps", `{"name":"a2","config":{"A=B":"1"}}`, 400,
			`bad environment variable "A=B": a name is not empty and holds no '=', and neither name nor value holds a zero byte`},

		{"another ID in a put", "PUT", "/v2/apps/" + id, `{"id":"zz"}`, 400, "App ID in path does not match ID in body"},
		{"another name", "PUT", "/v2/apps/" + id, `{"name":"other"}`, 409, "Could not update - name is immutable"},
		{"a bad shape in a put", "PUT", "/v2/apps/" + id, `{"shape":"X"}`, 400, "Invalid app shape"},
		{"bad syslog in a put", "PUT", "/v2/apps/" + id, `{"syslog_url":"http://x"}`, 400,
			`invalid syslog url: "http://x" invalid scheme, only [tcp, udp, unix, unixgram, tcp+tls] are supported`},
		{"put of none", "PUT", "/v2/apps/nope", `{}`, 404, "App not found"},
		{"get of none", "GET", "/v2/apps/nope", ``, 404, "App not found"},
		{"get by name", "GET", "/v2/apps/a1", ``, 404, "App not found"},
		{"delete of none", "DELETE", "/v2/apps/nope", ``, 404, "App not found"},
	} {
		t.Run(tt.name, func(t *testing.T) { n.t = t; n.refused(tt.method, tt.path, tt.body, tt.status, tt.message) })
	}
	n.t = t
	n.must("POST", "/v2/apps", `{"name":"`+long+`"}`)
	n.must("POST", "/v2/apps", `{"name":"日本_-9"}`)
}

func TestMistakesInFnsAreToldInFnsWords(t *testing.T) {
	n := newNode(t)
	app := n.newApp("a1")
	id := n.newFn(app, "f1")
	long := strings.Repeat("x", 255)
	fn := func(fields string) string { return `{"name":"f2","app_id":"` + app + `","image":"x",` + fields + `}` }
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		message                  string
	}{
		{"no name", "POST", "/v2/fns", `{"app_id":"` + app + `","image":"x"}`, 400, "Missing Fn name"},
		{"a name that is too long", "POST", "/v2/fns", fn(`"name":"` + long + `x"`), 400, "Fn name must be 255 characters or less"},
		{"a name with a slash", "POST", "/v2/fns", fn(`"name":"a/b"`), 400, "name must be a valid string"},
		{"a name with a space", "POST", "/v2/fns", fn(`"name":"a b"`), 400, "name must be a valid string"},
		{"a name with letters that a path escapes", "POST", "/v2/fns", fn(`"name":"ä"`), 400, "name must be a valid string"},
		{"dots", "POST", "/v2/fns", fn(`"name":".."`), 400, `bad function name "..": it means a directory`},
		{"no app", "POST", "/v2/fns", `{"name":"f2","image":"x"}`, 400, "Missing AppID on Fn"},
		{"an app that is none", "POST", "/v2/fns", fn(`"app_id":"zzz"`), 404, "App not found"},
		{"no image", "POST", "/v2/fns", fn(`"image":""`), 400, "Missing image on Fn"},
		{"an image that cannot be", "POST", "/v2/fns", fn(`"image":"a b"`), 400, "Invalid Fn image"},
		{"an ID", "POST", "/v2/fns", fn(`"id":"x"`), 400, "ID cannot be provided for Fn creation"},
		{"a name that is taken", "POST", "/v2/fns", fn(`"name":"f1"`), 409, "Fn with specified name already exists"},
		{"much time", "POST", "/v2/fns", fn(`"timeout":301`), 400, "timeout value is out of range, must be between 0 and 300"},
		{"less than no time", "POST", "/v2/fns", fn(`"timeout":-1`), 400, "timeout value is out of range, must be between 0 and 300"},
		{"much idle time", "POST", "/v2/fns", fn(`"idle_timeout":3601`), 400, "idle_timeout value is out of range, must be between 0 and 3600"},
		{"much memory", "POST", "/v2/fns", fn(`"memory":8193`), 400, "memory value is out of range. It should be between 0 and 8192"},
		{"memory beyond all numbers", "POST", "/v2/fns", fn(`"memory":18446744073709551615`), 400, "memory value is out of range. It should be between 0 and 8192"},
		{"less than no memory", "POST", "/v2/fns", fn(`"memory":-1`), 400, "Invalid JSON"},
		{"half a second", "POST", "/v2/fns", fn(`"timeout":0.5`), 400, "Invalid JSON"},
		{"a shape that is none", "POST", "/v2/fns", fn(`"shape":"X"`), 400, "Invalid app shape"},
		{"a list without an app", "GET", "/v2/fns", ``, 400, "Missing AppID on Fn"},

		{"another ID in a put", "PUT", "/v2/fns/" + id, `{"id":"zz","memory":1000}`, 400, "Fn ID in path does not match that in body"},
		{"much time in a put", "PUT", "/v2/fns/" + id, `{"timeout":301}`, 400, "timeout value is out of range, must be between 0 and 300"},
		{"much idle time in a put", "PUT", "/v2/fns/" + id, `{"idle_timeout":-1}`, 400, "idle_timeout value is out of range, must be between 0 and 3600"},
		{"much memory in a put", "PUT", "/v2/fns/" + id, `{"memory":8193}`, 400, "memory value is out of range. It should be between 0 and 8192"},
		{"a bad image in a put", "PUT", "/v2/fns/" + id, `{"image":"a b"}`, 400, "Invalid Fn image"},
		{"put of none", "PUT", "/v2/fns/nope", `{}`, 404, "Fn not found"},
		{"get of none", "GET", "/v2/fns/nope", ``, 404, "Fn not found"},
		{"get by name", "GET", "/v2/fns/f1", ``, 404, "Fn not found"},
		{"delete of none", "DELETE", "/v2/fns/nope", ``, 404, "Fn not found"},
		{"calls of none", "GET", "/v2/fns/nope/calls", ``, 404, "Fn not found"},
	} {
		t.Run(tt.name, func(t *testing.T) { n.t = t; n.refused(tt.method, tt.path, tt.body, tt.status, tt.message) })
	}
	n.t = t
	n.must("POST", "/v2/fns", fn(`"name":"`+long+`"`))
	n.must("POST", "/v2/fns", fn(`"name":"a.b~c$d&e+f=g:h@i_j-k"`))
	if got := n.must("GET", "/v2/fns/"+id, "")["memory"]; got != 128.0 {
		t.Errorf("memory %v: a refused put has changed something", got)
	}
}

func TestMistakesInTriggersAreToldInFnsWords(t *testing.T) {
	n := newNode(t)
	app, other := n.newApp("a1"), n.newApp("a2")
	fn, foreign := n.newFn(app, "f1"), n.newFn(other, "f1")
	id := n.newTrigger(app, fn, "t1", "/s")
	n.newTrigger(app, fn, "t2", "/s2")
	const long = 255
	trigger := func(fields string) string {
		return `{"name":"t9","app_id":"` + app + `","fn_id":"` + fn + `","type":"http","source":"/s9",` + fields + `}`
	}
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		message                  string
	}{
		{"no name", "POST", "/v2/triggers", trigger(`"name":""`), 400, "Missing name on Trigger"},
		{"a name that is too long", "POST", "/v2/triggers", trigger(`"name":"` + strings.Repeat("x", long+1) + `"`), 400, "Trigger name must be 255 characters or less"},
		{"a name with a dot", "POST", "/v2/triggers", trigger(`"name":"a.b"`), 400, "Invalid name for Trigger"},
		{"a name with a slash", "POST", "/v2/triggers", trigger(`"name":"a/b"`), 400, "Invalid name for Trigger"},
		{"no app", "POST", "/v2/triggers", trigger(`"app_id":""`), 400, "Missing App ID on Trigger"},
		{"no function", "POST", "/v2/triggers", trigger(`"fn_id":""`), 400, "Missing Fn ID on Trigger"},
		{"an app that is none", "POST", "/v2/triggers", trigger(`"app_id":"zzz"`), 404, "App not found"},
		{"a function that is none", "POST", "/v2/triggers", trigger(`"fn_id":"zzz"`), 404, "Fn not found"},
		{"a function of another app", "POST", "/v2/triggers", trigger(`"fn_id":"` + foreign + `"`), 400, "Invalid Fn ID - not owned by specified app"},
		{"another type", "POST", "/v2/triggers", trigger(`"type":"cron"`), 400, "Trigger Type Not Supported"},
		{"no type", "POST", "/v2/triggers", trigger(`"type":""`), 400, "Trigger Type Not Supported"},
		{"no source", "POST", "/v2/triggers", trigger(`"source":""`), 400, "Missing Trigger Source"},
		{"a source without a slash", "POST", "/v2/triggers", trigger(`"source":"s"`), 400, "Missing Trigger Source Prefix '/'"},
		{"an ID", "POST", "/v2/triggers", trigger(`"id":"x"`), 400, "ID cannot be provided for Trigger creation"},
		{"a time of creation", "POST", "/v2/triggers", trigger(`"created_at":"2026-01-01T00:00:00Z"`), 400, "Trigger Created At Provided for Create"},
		{"a time of change", "POST", "/v2/triggers", trigger(`"updated_at":"2026-01-01T00:00:00.000Z"`), 400, "Trigger ID Provided for Create"},
		{"a time that is none", "POST", "/v2/triggers", trigger(`"created_at":"yesterday"`), 400, "Invalid JSON"},
		{"a name that is taken", "POST", "/v2/triggers", trigger(`"name":"t1"`), 409, "Trigger already exists"},
		{"a source that is taken", "POST", "/v2/triggers", trigger(`"source":"/s"`), 409, "Trigger with the same type and source exists on this app"},
		{"a source that is too long", "POST", "/v2/triggers", trigger(`"source":"/` + strings.Repeat("x", faas.MaxSource) + `"`), 400,
			"the source of trigger t9 has 1025 bytes, over the limit of 1024"},
		{"a list without an app", "GET", "/v2/triggers", ``, 400, "Missing App ID on Trigger"},

		{"another ID in a put", "PUT", "/v2/triggers/" + id, `{"id":"zz","source":"/new"}`, 400, "ID in path does not match ID in body"},
		{"a bad name in a put", "PUT", "/v2/triggers/" + id, `{"name":"a b"}`, 400, "Invalid name for Trigger"},
		{"a bad source in a put", "PUT", "/v2/triggers/" + id, `{"source":"x"}`, 400, "Missing Trigger Source Prefix '/'"},
		{"a taken name in a put", "PUT", "/v2/triggers/" + id, `{"name":"t2"}`, 409, "Trigger already exists"},
		{"a taken source in a put", "PUT", "/v2/triggers/" + id, `{"source":"/s2"}`, 409, "Trigger with the same type and source exists on this app"},
		{"a function of another app in a put", "PUT", "/v2/triggers/" + id, `{"fn_id":"` + foreign + `"}`, 400, "Invalid Fn ID - not owned by specified app"},
		{"a function that is none in a put", "PUT", "/v2/triggers/" + id, `{"fn_id":"zzz"}`, 404, "Fn not found"},
		{"put of none", "PUT", "/v2/triggers/nope", `{}`, 404, "Trigger not found"},
		{"get of none", "GET", "/v2/triggers/nope", ``, 404, "Trigger not found"},
		{"delete of none", "DELETE", "/v2/triggers/nope", ``, 404, "Trigger not found"},
	} {
		t.Run(tt.name, func(t *testing.T) { n.t = t; n.refused(tt.method, tt.path, tt.body, tt.status, tt.message) })
	}
	n.t = t
	n.must("POST", "/v2/triggers", trigger(`"created_at":"0001-01-01T00:00:00.000Z","updated_at":""`)) // what clients send that have none
	if source := n.must("GET", "/v2/triggers/"+id, "")["source"]; source != "/s" {
		t.Errorf("source %v: a refused put has changed something", source)
	}
}

func TestLimitsOfAnnotations(t *testing.T) {
	const (
		badKey   = "Invalid annotation key, annotation keys must be non-empty ascii strings excluding whitespace"
		longKey  = "Invalid annotation key length, annotation keys may not be larger than 128 bytes"
		badValue = "Invalid annotation value, annotation values may only be non-empty strings, numbers, objects, or arrays"
		bigValue = "Invalid annotation value length, annotation values may not be larger than 512 bytes when serialized as JSON"
		many     = "Invalid annotation change, new key(s) exceed maximum permitted number of annotations keys (100)"
	)
	n := newNode(t)
	app := n.newApp("a")
	fn := n.newFn(app, "f")
	trigger := n.newTrigger(app, fn, "t", "/t")
	keys := func(count int) string {
		var all []string
		for i := range count {
			all = append(all, fmt.Sprintf(`"k%d":%d`, i, i))
		}
		return `{"annotations":{` + strings.Join(all, ",") + `}}`
	}
	for _, path := range []string{"/v2/apps/" + app, "/v2/fns/" + fn, "/v2/triggers/" + trigger} {
		for _, tt := range []struct{ annotations, message string }{
			{`"":1`, badKey}, {`"a b":1`, badKey}, {`"ä":1`, badKey}, {`"a\u0000":1`, badKey},
			{`"` + strings.Repeat("k", 129) + `":1`, longKey},
			{`"a":"` + strings.Repeat("v", 511) + `"`, bigValue},
			{`"a":` + deep(257), bigValue},
		} {
			n.refused("PUT", path, `{"annotations":{`+tt.annotations+`}}`, http.StatusBadRequest, tt.message)
		}
		n.refused("PUT", path, keys(101), http.StatusBadRequest, many)
		n.must("PUT", path, `{"annotations":{"`+strings.Repeat("k", 128)+`":"`+strings.Repeat("v", 510)+`"}}`)
		n.must("PUT", path, `{"annotations":{"`+strings.Repeat("k", 128)+`":""}}`)
		n.must("PUT", path, keys(100))
		n.refused("PUT", path, `{"annotations":{"more":1}}`, http.StatusBadRequest, many)
		n.must("PUT", path, `{"annotations":{"more":1,"k1":null}}`)
		if got := n.must("GET", path, "")["annotations"].(map[string]any); got["more"] != 1.0 || got["k1"] != nil || len(got) < 100 {
			t.Errorf("%s: %v", path, got)
		}
	}
	for _, body := range []string{`"x":""`, `"x":null`} {
		n.refused("POST", "/v2/apps", `{"name":"b","annotations":{`+body+`}}`, http.StatusBadRequest, badValue)
		n.refused("POST", "/v2/fns", `{"name":"b","app_id":"`+app+`","image":"x","annotations":{`+body+`}}`, http.StatusBadRequest, badValue)
	}
}

func TestPutMerges(t *testing.T) {
	n := newNode(t)
	app := n.must("POST", "/v2/apps", `{"name":"a","config":{"A":"1","B":"2","C":""},"annotations":{"x":[1, 2],"y":{"b":1}},"syslog_url":"udp://h:1","shape":"GENERIC_ARM"}`)["id"].(string)
	check := func(path, change string, want string) {
		t.Helper()
		n.must("PUT", path, change)
		got := n.must("GET", path, "")
		for key := range got {
			if key != "config" && key != "annotations" && key != "syslog_url" && key != "shape" {
				delete(got, key)
			}
		}
		if b, _ := json.Marshal(got); string(b) != want {
			t.Errorf("after %s\ngot  %s\nwant %s", change, b, want)
		}
	}
	path := "/v2/apps/" + app
	check(path, `{}`, `{"annotations":{"x":[1,2],"y":{"b":1}},"config":{"A":"1","B":"2","C":""},"shape":"GENERIC_ARM","syslog_url":"udp://h:1"}`)
	check(path, `null`, `{"annotations":{"x":[1,2],"y":{"b":1}},"config":{"A":"1","B":"2","C":""},"shape":"GENERIC_ARM","syslog_url":"udp://h:1"}`)
	check(path, `{"config":null,"annotations":null,"syslog_url":null,"shape":""}`, `{"annotations":{"x":[1,2],"y":{"b":1}},"config":{"A":"1","B":"2","C":""},"shape":"GENERIC_ARM","syslog_url":"udp://h:1"}`)
	check(path, `{"config":{"A":"","D":"4","C":null},"annotations":{"x":"","z":true}}`, `{"annotations":{"y":{"b":1},"z":true},"config":{"B":"2","D":"4"},"shape":"GENERIC_ARM","syslog_url":"udp://h:1"}`)
	check(path, `{"config":{"B":"","D":""},"annotations":{"y":null,"z":null},"syslog_url":"","shape":"GENERIC_X86"}`, `{"shape":"GENERIC_X86"}`)

	fn := n.must("POST", "/v2/fns", `{"name":"f","app_id":"`+app+`","image":"here","config":{"A":"1"},"annotations":{"x":1}}`)["id"].(string)
	own := `"fnproject.io/fn/invokeEndpoint":"http://example.com/invoke/` + fn + `"`
	path = "/v2/fns/" + fn
	check(path, `{"config":{"B":"2"},"annotations":{"y":2}}`, `{"annotations":{`+own+`,"x":1,"y":2},"config":{"A":"1","B":"2"}}`)
	check(path, `{"config":{"A":"","B":""},"annotations":{"x":"","y":""}}`, `{"annotations":{`+own+`},"config":{}}`)
	check(path, `{"annotations":{"fnproject.io/fn/invokeEndpoint":"http://elsewhere"}}`, `{"annotations":{`+own+`},"config":{}}`)
}

func TestPutIgnoresWhatCannotChange(t *testing.T) {
	n := newNode(t)
	app, other := n.newApp("a"), n.newApp("b")
	fn := n.newFn(app, "f")
	second := n.newFn(app, "g")
	trigger := n.newTrigger(app, fn, "t", "/t")

	before := n.must("GET", "/v2/fns/"+fn, "")
	after := n.must("PUT", "/v2/fns/"+fn, `{"name":"new","app_id":"`+other+`","created_at":"2001-01-01T00:00:00Z","unknown":[1]}`)
	if after["name"] != "f" || after["app_id"] != app || after["updated_at"] != before["updated_at"] || after["annotations"] != nil {
		t.Errorf("fn before %v, after %v", before, after)
	}
	before = n.must("GET", "/v2/triggers/"+trigger, "")
	after = n.must("PUT", "/v2/triggers/"+trigger, `{"type":"cron","app_id":"`+other+`"}`)
	if after["type"] != "http" || after["app_id"] != app || after["updated_at"] != before["updated_at"] || after["annotations"] != nil {
		t.Errorf("trigger before %v, after %v", before, after)
	}
	after = n.must("PUT", "/v2/triggers/"+trigger, `{"name":"t_2","source":"/t/2","fn_id":"`+second+`","annotations":{"x":1}}`)
	if after["name"] != "t_2" || after["source"] != "/t/2" || after["fn_id"] != second {
		t.Errorf("trigger after %v", after)
	}
	if got := n.must("GET", "/v2/triggers/"+trigger, ""); got["annotations"].(map[string]any)["fnproject.io/trigger/httpEndpoint"] != "http://example.com/t/a/t/2" {
		t.Errorf("trigger %v", got)
	}
	whole, _ := json.Marshal(n.must("GET", "/v2/fns/"+fn, "")) // as clients do it
	if again := n.must("PUT", "/v2/fns/"+fn, string(whole)); again["updated_at"] != n.must("GET", "/v2/fns/"+fn, "")["updated_at"] || again["annotations"] != nil {
		t.Errorf("fn sent back as it is: %v", again)
	}
}

// TestPutThatChangesNothingLeavesEverythingAsItIs: with a new revision of a function
// its hot sandboxes are ended.
func TestPutThatChangesNothingLeavesEverythingAsItIs(t *testing.T) {
	n := newNode(t)
	app := n.newApp("a")
	fn := n.must("POST", "/v2/fns", `{"name":"f","app_id":"`+app+`","image":"here","memory":4}`)["id"].(string)
	trigger := n.newTrigger(app, fn, "t", "/t")
	for _, path := range []string{"/v2/apps/" + app, "/v2/fns/" + fn, "/v2/triggers/" + trigger} {
		before := n.must("GET", path, "")
		whole, _ := json.Marshal(before) // clients send it back as it is
		for _, change := range []string{string(whole), `{"config":{"NONE":""},"annotations":{"none":""}}`} {
			if after := n.must("PUT", path, change); after["updated_at"] != before["updated_at"] {
				t.Errorf("%s %s is updated at %v, was at %v", path, change, after["updated_at"], before["updated_at"])
			}
		}
	}
	a, _ := n.Catalog.AppByID(app)
	f, _ := n.Catalog.FunctionByID(fn)
	if g, _ := n.Catalog.Trigger(trigger); a.Revision != 1 || f.Revision != 1 || g.Revision != 1 {
		t.Errorf("revisions %d, %d, %d, want 1", a.Revision, f.Revision, g.Revision)
	}
}

func TestFunctionIsMadeForTheStreamContract(t *testing.T) {
	n := newNode(t)
	app := n.newApp("a")
	id := n.must("POST", "/v2/fns", `{"name":"f","app_id":"`+app+`","image":"here","memory":256,"timeout":7,"shape":"GENERIC_X86"}`)["id"].(string)
	fn, err := n.Catalog.FunctionByID(id)
	if err != nil {
		t.Fatal(err)
	}
	if fn.Format != faas.FormatHTTPStream || fn.Profile != faas.ProfileFn || fn.User != "1000:1000" || fn.Memory != 256*faas.MB || fn.TmpSize != fn.Memory ||
		fn.Timeout != 7*time.Second || fn.Wait != fn.Timeout || fn.Idle != 30*time.Second || fn.Digest == "" || fn.Address == "" || fn.Shape != "GENERIC_X86" {
		t.Errorf("%+v", fn)
	}
	n.must("PUT", "/v2/fns/"+id, `{"image":"there","memory":64,"timeout":9,"idle_timeout":3600}`)
	fn, _ = n.Catalog.FunctionByID(id)
	if fn.Digest != "" || fn.Memory != 64*faas.MB || fn.TmpSize != fn.Memory || fn.Wait != 9*time.Second || fn.Idle != time.Hour {
		t.Errorf("%+v", fn)
	}
	n.must("PUT", "/v2/fns/"+id, `{"image":"here"}`)
	if fn, _ = n.Catalog.FunctionByID(id); fn.Digest == "" {
		t.Errorf("%+v", fn)
	}
}

func TestMemoryMayBeLessThanASandboxCanHave(t *testing.T) {
	n := newNode(t)
	id := n.must("POST", "/v2/fns", `{"name":"f","app_id":"`+n.newApp("a")+`","image":"x","memory":1}`)["id"].(string)
	for _, tt := range []struct {
		put  string
		want float64
		is   faas.Bytes
	}{{`{}`, 1, faas.MinMemory}, {`{"memory":7}`, 7, faas.MinMemory}, {`{"timeout":3}`, 7, faas.MinMemory}, {`{"memory":8}`, 8, faas.MinMemory}, {`{"memory":9}`, 9, 9 * faas.MB}} {
		n.must("PUT", "/v2/fns/"+id, tt.put)
		fn, _ := n.Catalog.FunctionByID(id)
		if got := n.must("GET", "/v2/fns/"+id, "")["memory"]; got != tt.want || fn.Memory != tt.is {
			t.Errorf("after %s: memory %v, %v", tt.put, got, fn.Memory)
		}
	}
}

func TestWhatOtherAPIsHaveMadeIsShown(t *testing.T) {
	n := newNode(t)
	app, err := n.Catalog.PutApp(t.Context(), faas.App{Name: "a.b", MaxConcurrency: 3}, store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	fn, err := n.Catalog.PutFunction(t.Context(), faas.Function{App: app.ID, Name: "ä", Image: "x", Memory: 64*faas.MB + 1, Timeout: 1500 * time.Millisecond, Idle: 2 * time.Hour}.WithDefaults(), store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	got := n.must("GET", "/v2/fns/"+fn.ID, "")
	if got["name"] != "ä" || got["memory"] != 65.0 || got["timeout"] != 2.0 || got["idle_timeout"] != 7200.0 || fmt.Sprint(got["config"]) != "map[]" {
		t.Errorf("%v", got)
	}
	n.must("PUT", "/v2/fns/"+fn.ID, `{"config":{"A":"1"}}`)
	fn, _ = n.Catalog.FunctionByID(fn.ID)
	if fn.Format != faas.FormatDefault || fn.Profile != faas.ProfileHob || fn.Memory != 64*faas.MB+1 || fn.Timeout != 1500*time.Millisecond {
		t.Errorf("a put has changed more than it named: %+v", fn)
	}
	n.must("PUT", "/v2/apps/"+app.ID, `{"config":{"A":"1"}}`)
	if app, _ = n.Catalog.App("a.b"); app.MaxConcurrency != 3 {
		t.Errorf("%+v", app)
	}
}

func TestDefaultAppIsThereOnceSomethingIsDoneWithIt(t *testing.T) {
	n := newNode(t)
	n.want("GET", "/v2/apps", "", 200, `{"items":[]}`)
	n.want("GET", "/v2/apps?name=default", "", 200, `{"items":[]}`)
	id := n.newApp("default")
	n.refused("POST", "/v2/apps", `{"name":"default"}`, 409, "App already exists")
	if items := n.must("GET", "/v2/apps?name=default", "")["items"].([]any); len(items) != 1 {
		t.Errorf("%v", items)
	}
	n.refused("DELETE", "/v2/apps/"+id, "", 400, `app "default" cannot be deleted: a function that names no app is in it`)
}

func TestHostNameHasOneApp(t *testing.T) {
	n := newNode(t)
	n.must("POST", "/v2/apps", `{"name":"a","annotations":{"hob/hosts":["api.example.org"]}}`)
	n.refused("POST", "/v2/apps", `{"name":"b","annotations":{"hob/hosts":["api.example.org"]}}`, 409, "app a has the host api.example.org")
	id := n.newApp("b")
	n.refused("PUT", "/v2/apps/"+id, `{"annotations":{"hob/hosts":["x.org","api.example.org"]}}`, 409, "app a has the host api.example.org")
	n.must("PUT", "/v2/apps/"+id, `{"annotations":{"hob/hosts":["x.org"],"hob/patterns":true}}`)
}

func TestDeletingTakesAllWithIt(t *testing.T) {
	n := newNode(t)
	app := n.newApp("a")
	fn, second := n.newFn(app, "f"), n.newFn(app, "g")
	trigger, other := n.newTrigger(app, fn, "t", "/t"), n.newTrigger(app, second, "t", "/u")
	n.caller.live = []faas.Call{{ID: faas.NewID(), FuncID: fn, State: faas.CallRunning}} // it goes on
	n.want("DELETE", "/v2/fns/"+fn, "", 204, "")
	n.refused("GET", "/v2/triggers/"+trigger, "", 404, "Trigger not found")
	n.want("DELETE", "/v2/apps/"+app, "", 204, "")
	n.refused("GET", "/v2/fns/"+second, "", 404, "Fn not found")
	n.refused("GET", "/v2/triggers/"+other, "", 404, "Trigger not found")
	n.refused("DELETE", "/v2/fns/"+second, "", 404, "Fn not found")
	n.newApp("a")
}

func TestTriggerIsFoundByItsSource(t *testing.T) {
	n := newNode(t)
	app := n.newApp("a")
	fn := n.newFn(app, "f")
	n.newTrigger(app, fn, "t", "/s/x")
	n.newTrigger(app, fn, "root", "/")
	n.newTrigger(app, fn, "double", "//d")
	base := "/v2/runner/apps/" + app + "/triggerBySource/"
	for source, want := range map[string]string{
		"http/s/x": "t", "http//s/x": "t", "http/s%2Fx": "t", "http/%2Fs/x": "t", "http": "root", "http/": "root", "http//": "root",
		"http///d": "double", "http//d": "double",
	} {
		got := n.must("GET", base+source, "")
		if got["name"] != want || got["annotations"] != nil {
			t.Errorf("%s: %v, want %s", source, got, want)
		}
	}
	n.refused("GET", base+"cron/s/x", "", 404, "Trigger not found")
	n.refused("GET", base+"http/s", "", 404, "Trigger not found")
	n.refused("GET", "/v2/runner/apps/nope/triggerBySource/http/s/x", "", 404, "Trigger not found")
}

func TestAddressesAreThoseOfTheOperatorOrTheRequest(t *testing.T) {
	n := newNode(t)
	app := n.newApp("ä")
	fn := n.newFn(app, "f")
	trigger := n.newTrigger(app, fn, "t", "/a b/:c?d*/%41")
	get := func(path, key string) any {
		return n.must("GET", path, "")["annotations"].(map[string]any)["fnproject.io/"+key]
	}
	if got, want := get("/v2/triggers/"+trigger, "trigger/httpEndpoint"), "http://example.com/t/%C3%A4/a%20b/:c%3Fd%2A/%2541"; got != want {
		t.Errorf("trigger at %v, want %v", got, want)
	}
	ascii := n.newApp("a")
	plain := n.newTrigger(ascii, n.newFn(ascii, "f"), "plain", "/users/:id/*")
	if got, want := get("/v2/triggers/"+plain, "trigger/httpEndpoint"), "http://example.com/t/a/users/:id/*"; got != want {
		t.Errorf("trigger at %v, want %v", got, want)
	}
	n.PublicURL = "https://fn.example.org/"
	if got, want := get("/v2/fns/"+fn, "fn/invokeEndpoint"), "https://fn.example.org/invoke/"+fn; got != want {
		t.Errorf("fn at %v, want %v", got, want)
	}
}
