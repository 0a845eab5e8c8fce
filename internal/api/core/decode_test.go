package core

import (
	"encoding/json"
	"maps"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"hob/faas"
)

func TestBadJSONNamesThePlace(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"nothing", "", "the request has no body: send a JSON object"},
		{"blanks", " \n", "the request has no body: send a JSON object"},
		{"null", "null", "the body is null: send a JSON object"},
		{"list", "[]", "the body is a JSON array: send an object"},
		{"text", `"f"`, "the body is a JSON string: send an object"},
		{"cut off", "{\"name\":", "bad JSON at line 1, column 8: unexpected end of JSON input"},
		{"third line", "{\n\"name\": \"f\",\n\"image\" \"b\"}", `bad JSON at line 3, column 9: invalid character '"' after object key`},
		{"two values", `{"name":"f"} {}`, "bad JSON at line 1, column 14: invalid character '{' after top-level value"},
		{"unknown field", `{"memroy":"1g"}`, `unknown field "memroy": this request takes name, image, format, entrypoint, command, env, workdir, user, writable, network, allow, isolation, devices, memory, cpus, tmp_size, timeout, wait, start_timeout, idle_timeout, max_concurrency, line, port, concurrency, min, max_calls, freeze, async_timeout, delay, retries, retry_delay, retry_max, on_success, on_failure, on_node_loss, log_payload, profile, shape, annotations`},
		{"other case", `{"Name":"f"}`, `unknown field "Name": this request takes name, `},
		{"wrong type", `{"writable":"yes"}`, `field "writable" is a string: it must be true or false`},
		{"number for text", `{"image":7}`, `field "image" is a number: it must be a string`},
		{"fraction", `{"line":1.5}`, `field "line" is a number 1.5: it must be a whole number`},
		{"too large a number", `{"line":99999999999999999999}`, `field "line" is a number 99999999999999999999: it must be a whole number`},
		{"word in a list", `{"command":["a",1]}`, `field "command" is a number: it must be a string`},
		{"text for a list", `{"command":"a b"}`, `field "command" is a string: it must be a list`},
		{"text for annotations", `{"annotations":"a"}`, `field "annotations" is a string: it must be an object`},
		{"list for annotations", `{"annotations":[1]}`, `field "annotations" is an array: it must be an object`},
		{"number in env", `{"env":{"A":1}}`, `field "env" is a number: it must be a string`},
		{"bad size", `{"memory":"lots"}`, `field "memory": bad size "lots": write it as 64m, 1.5g or 67108864`},
		{"object for a size", `{"memory":{}}`, `field "memory": bad size "{}": write it as 64m, 1.5g or 67108864`},
		{"negative size", `{"tmp_size":-1}`, `field "tmp_size": bad size "-1": write it as 64m, 1.5g or 67108864`},
		{"bad cpus", `{"cpus":true}`, `field "cpus": bad cpus "true": write it as 0.5 or 500m`},
		{"bad duration", `{"timeout":"30"}`, `field "timeout": bad duration "30": write it as 30s, 1m30s or 250ms`},
		{"negative async timeout", `{"async_timeout":"-1s"}`, `field "async_timeout": bad duration "-1s": write it as 30m or 12h, "none" for no limit, or nothing for that of other calls`},
		{"async timeout in another word", `{"async_timeout":"never"}`, `field "async_timeout": bad duration "never"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var in functionIn
			_, err := parseJSON([]byte(c.body), &in)
			if err == nil {
				_, err = in.function()
			}
			if faas.KindOf(err) != faas.Invalid || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%s: %v (kind %q), want invalid: %s", c.body, err, faas.KindOf(err), c.want)
			}
		})
	}
}

func TestUnknownFieldOfANestedObjectIsNamed(t *testing.T) {
	var in pullIn
	_, err := parseJSON([]byte(`{"image":"b","auth":{"user":"ann"}}`), &in)
	if want := `unknown field "user"`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestBodyOverTheLimitIsTooLarge(t *testing.T) {
	r := httptest.NewRequest("POST", "/", strings.NewReader(`{"name":"`+strings.Repeat("x", maxJSON)+`"}`))
	var in functionIn
	_, err := readJSON(httptest.NewRecorder(), r, &in)
	if want := "the JSON body is over the limit of 1 MB"; faas.KindOf(err) != faas.TooLarge || err.Error() != want {
		t.Errorf("%v, want too_large: %s", err, want)
	}
}

func TestSizesAndProcessorsAreNumbersOrText(t *testing.T) {
	var in functionIn
	if _, err := parseJSON([]byte(`{"memory":268435456,"tmp_size":"64m","cpus":"250m","timeout":"1m30s"}`), &in); err != nil {
		t.Fatal(err)
	}
	fn, err := in.function()
	if err != nil || fn.Memory != 256*faas.MB || fn.TmpSize != 64*faas.MB || fn.CPU != 250 || fn.Timeout != 90*time.Second {
		t.Errorf("got %+v, %v", fn, err)
	}
}

// full is a function in which nothing has its default.
func full() faas.Function {
	return faas.Function{
		ID: "F", App: "A", Name: "f", Image: "busybox", Digest: "sha256:1", Format: faas.FormatPort,
		Entrypoint: []string{"/bin/a"}, Command: []string{"b", ""}, Env: map[string]string{"K": "v", "L": "w"},
		Workdir: "/w", User: "7:8", Writable: true, Network: "allow", Allow: []string{"db.lan:5432"},
		Isolation: faas.IsolationGVisor, Devices: []string{"/dev/kvm"}, Memory: 256 * faas.MB, CPU: 1500, TmpSize: 16 * faas.MB,
		Timeout: time.Second, Wait: time.Minute, StartTimeout: 3 * time.Second, Idle: time.Hour, MaxConcurrency: 3, Line: 9,
		Port: 3000, Concurrency: 80, Min: 2, MaxCalls: 1000, Freeze: faas.FreezeNever, Revision: 4,
		AsyncTimeout: time.Hour, Delay: time.Minute, Retries: 3, RetryDelay: 5 * time.Second, RetryMax: 20 * time.Second,
		OnSuccess: "https://example.org/in", OnFailure: "default/alarm", OnNodeLoss: faas.NodeLossFail, LogPayload: true,
		Address: "7d1b6e2c-0d3e-4b57-8a53-0f9f4c1f2a11", Beside: map[string]string{"hyper": "{}"}, MaxResult: faas.MB,
		Profile: faas.ProfileFn, Shape: "GENERIC_ARM", Annotations: map[string]string{"team": `"<a & b>"`, "n": "1.50"},
		Created: time.Unix(1, 0), Updated: time.Unix(2, 0),
	}
}

// TestFullFunctionIsFull holds that the tests with it see every field that a
// change could lose.
func TestFullFunctionIsFull(t *testing.T) {
	fn := reflect.ValueOf(full())
	for f, v := range fn.Fields() {
		if v.IsZero() {
			t.Errorf("%s is zero", f.Name)
		}
	}
}

func TestChangesAreMerged(t *testing.T) {
	for _, c := range []struct {
		name, change string
		want         func(*faas.Function)
	}{
		{"nothing", `{}`, func(*faas.Function) {}},
		{"one field", `{"timeout":"2s"}`, func(f *faas.Function) { f.Timeout = 2 * time.Second }},
		{"null is the default", `{"timeout":null,"memory":null,"user":null}`, func(f *faas.Function) {
			f.Timeout, f.Memory, f.User = faas.DefaultTimeout, faas.DefaultMemory, ""
		}},
		{"the image's entrypoint", `{"entrypoint":null}`, func(f *faas.Function) { f.Entrypoint = nil }},
		{"no entrypoint", `{"entrypoint":[]}`, func(f *faas.Function) { f.Entrypoint = []string{} }},
		{"one variable", `{"env":{"K":"x"}}`, func(f *faas.Function) { f.Env["K"] = "x" }},
		{"one variable less", `{"env":{"K":null}}`, func(f *faas.Function) { delete(f.Env, "K") }},
		{"no variables", `{"env":null}`, func(f *faas.Function) { clear(f.Env) }},
		{"a list is replaced", `{"command":["c"]}`, func(f *faas.Function) { f.Command = []string{"c"} }},
		{"rules are replaced", `{"allow":["10.0.0.0/8:*"]}`, func(f *faas.Function) { f.Allow = []string{"10.0.0.0/8:*"} }},
		{"an empty list is none", `{"allow":[],"devices":null}`, func(f *faas.Function) { f.Allow, f.Devices = nil, nil }},
		{"false", `{"writable":false}`, func(f *faas.Function) { f.Writable = false }},
		{"another format", `{"format":"http"}`, func(f *faas.Function) { f.Format, f.Port, f.Concurrency = faas.FormatHTTP, 0, 0 }},
		{"the same format", `{"format":"port"}`, func(*faas.Function) {}},
		{"a format that is not hot", `{"format":null}`, func(f *faas.Function) {
			f.Format, f.Port, f.Concurrency, f.Min, f.MaxCalls, f.Freeze = faas.FormatDefault, 0, 0, 0, 0, ""
		}},
		{"another format, and what it has not", `{"format":"default","min":3}`, func(f *faas.Function) {
			f.Format, f.Port, f.Concurrency, f.Min, f.MaxCalls, f.Freeze = faas.FormatDefault, 0, 0, 3, 0, ""
		}},
		{"the format's defaults", `{"port":null,"concurrency":null}`, func(f *faas.Function) { f.Port, f.Concurrency = faas.DefaultPort, 1 }},
		{"no async timeout", `{"async_timeout":"none"}`, func(f *faas.Function) { f.AsyncTimeout = -1 }},
		{"that of other calls", `{"async_timeout":""}`, func(f *faas.Function) { f.AsyncTimeout = 0 }},
		{"defaults of asynchronous calls", `{"async_timeout":null,"delay":null,"retries":null,"retry_delay":null,"retry_max":null,"on_success":null,"on_failure":null,"on_node_loss":null,"log_payload":null}`, func(f *faas.Function) {
			f.AsyncTimeout, f.Delay, f.Retries, f.RetryDelay, f.RetryMax = 0, 0, 0, faas.DefaultRetryDelay, faas.DefaultRetryMax
			f.OnSuccess, f.OnFailure, f.OnNodeLoss, f.LogPayload = "", "", "", false
		}},
		{"one annotation", `{"annotations":{"n": {"a" : [1, null]}}}`, func(f *faas.Function) { f.Annotations["n"] = `{"a":[1,null]}` }},
		{"one annotation less", `{"annotations":{"n":null}}`, func(f *faas.Function) { delete(f.Annotations, "n") }},
		{"no annotations", `{"annotations":null}`, func(f *faas.Function) { f.Annotations = nil }},
		{"profile and shape", `{"profile":null,"shape":"GENERIC_X86"}`, func(f *faas.Function) { f.Profile, f.Shape = "", "GENERIC_X86" }},
		{"the revision is no setting", `{"revision":4}`, func(*faas.Function) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var in changeIn
			fields, err := parseJSON([]byte(c.change), &in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := merged(full(), fields)
			want := full()
			c.want(&want)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s:\n got %+v, %v\nwant %+v", c.change, got, err, want)
			}
		})
	}
}

func TestAnnotationThatIsNoTextIsRefused(t *testing.T) {
	var in functionIn
	if _, err := parseJSON([]byte("{\"annotations\":{\"a\":\"\xff\"}}"), &in); err != nil {
		t.Fatal(err)
	}
	fn, err := in.function()
	fn.Name, fn.Image = "f", "b"
	if err != nil || faas.KindOf(fn.Check()) != faas.Invalid {
		t.Errorf("%q: %v, %v; want invalid", fn.Annotations, err, fn.Check())
	}
}

func TestTmpSizeThatNobodyChoseGoesWithTheMemory(t *testing.T) {
	old := faas.Function{Name: "f", Image: "b"}.WithDefaults()
	got, err := merged(old, map[string]json.RawMessage{"memory": json.RawMessage(`"32m"`)})
	if err != nil || got.TmpSize != 16*faas.MB {
		t.Errorf("tmp size %v, %v; want 16 MB", got.TmpSize, err)
	}
	old.TmpSize = 40 * faas.MB
	got, err = merged(old, map[string]json.RawMessage{"memory": json.RawMessage(`"32m"`)})
	if err != nil || got.TmpSize != 40*faas.MB || faas.KindOf(got.Check()) != faas.Invalid {
		t.Errorf("chosen tmp size %v, %v, check %v; want 40 MB, refused", got.TmpSize, err, got.Check())
	}
}

func TestLongestDelayThatNobodyChoseGoesWithTheFirst(t *testing.T) {
	old := faas.Function{Name: "f", Image: "b"}.WithDefaults()
	got, err := merged(old, map[string]json.RawMessage{"retry_delay": json.RawMessage(`"1h"`)})
	if err != nil || got.RetryMax != time.Hour || got.Check() != nil {
		t.Errorf("retries after at most %v, %v, check %v; want 1h", got.RetryMax, err, got.Check())
	}
	old.RetryMax = 30 * time.Minute
	got, err = merged(old, map[string]json.RawMessage{"retry_delay": json.RawMessage(`"1h"`)})
	if err != nil || faas.KindOf(got.Check()) != faas.Invalid {
		t.Errorf("retries after at most %v, %v, check %v; want the chosen 30m, refused", got.RetryMax, err, got.Check())
	}
}

func TestRootIsKnownInAllItsNames(t *testing.T) {
	for user, want := range map[string]bool{
		"": false, "0": true, "0:0": true, "00": true, "root": true, "root:users": true, "1000": false, "1000:0": false, "ann": false, ":0": false,
	} {
		if got := isRoot(user); got != want {
			t.Errorf("isRoot(%q) = %t, want %t", user, got, want)
		}
	}
}

// FuzzFunction holds that whatever is sent is taken or refused as Invalid or
// TooLarge, and that what is taken comes back the same when it is sent again.
func FuzzFunction(f *testing.F) {
	f.Add(`{"name":"f","image":"busybox"}`)
	f.Add(`{"name":"f","image":"b","memory":"64m","cpus":0.5,"timeout":"1s","env":{"A":"1","B":null}}`)
	f.Add(`{"name":"f","image":"b","entrypoint":[],"command":["a","",null],"writable":true}`)
	f.Add(`{"name":"f","image":"b","memory":1e9,"tmp_size":1e300,"cpus":"1e5m"}`)
	f.Add(`{"name":"f","image":"b","env":null,"memory":null,"timeout":null,"line":-1}`)
	f.Add(`{"name":"f","image":"b","format":"port","port":80,"concurrency":9,"min":1,"max_calls":7,"freeze":"never"}`)
	f.Add(`{"name":"f","image":"b","async_timeout":"none","delay":"1s","retries":2,"retry_delay":"1s","retry_max":"1m","log_payload":true}`)
	f.Add(`{"name":"f","image":"b","async_timeout":"-1h","on_success":"default/g","on_failure":"http://h/","on_node_loss":"fail"}`)
	f.Add(`{"name":"f","image":"b","profile":"fn","shape":"GENERIC_ARM","annotations":{"a":{"b": ["<&>", null]},"c":null}}`)
	f.Add(`{"name":"f",`)
	f.Fuzz(func(t *testing.T, body string) {
		var in functionIn
		if _, err := parseJSON([]byte(body), &in); err != nil {
			refused(t, body, err)
			return
		}
		fn, err := in.function()
		if err != nil {
			refused(t, body, err)
			return
		}
		fn.Name = in.Name
		if err := fn.Check(); err != nil {
			if kind := faas.KindOf(err); kind != faas.Invalid && kind != faas.Unsupported {
				t.Errorf("%q: kind %q: %v", body, kind, err)
			}
			return
		}
		w := httptest.NewRecorder()
		if err := answer(w, 200, settingsOf(fn)); err != nil {
			t.Fatal(err)
		}
		b := w.Body.Bytes()
		var again functionIn
		if _, err := parseJSON(b, &again); err != nil {
			t.Fatalf("%q is shown as %s, which is refused: %v", body, b, err)
		}
		back, err := again.function()
		back.Name = fn.Name
		if err != nil || !reflect.DeepEqual(back, fn) {
			t.Errorf("%q: %+v comes back as %+v, %v", body, fn, back, err)
		}
	})
}

// FuzzChange holds that any change of a function is refused or merged, and that
// merging it twice is merging it once.
func FuzzChange(f *testing.F) {
	f.Add(`{}`)
	f.Add(`{"memory":null,"env":{"K":null,"M":"1"},"command":[]}`)
	f.Add(`{"entrypoint":null,"revision":3,"timeout":"-1s"}`)
	f.Add(`{"env":null,"writable":null}`)
	f.Add(`{"memory":"8m"}`)
	f.Add(`{"format":"http","concurrency":2}`)
	f.Add(`{"format":null,"freeze":null}`)
	f.Add(`{"retry_delay":"1h","async_timeout":"none"}`)
	f.Add(`{"profile":"fn","annotations":{"team":null,"<b>":" 1 "}}`)
	f.Fuzz(func(t *testing.T, body string) {
		var in changeIn
		fields, err := parseJSON([]byte(body), &in)
		if err != nil {
			refused(t, body, err)
			return
		}
		once, err := merged(full(), maps.Clone(fields))
		if err != nil {
			refused(t, body, err)
			return
		}
		twice, err := merged(once, fields)
		if err != nil || !reflect.DeepEqual(once, twice) {
			t.Errorf("%q once: %+v, twice: %+v, %v", body, once, twice, err)
		}
	})
}

func refused(t *testing.T, body string, err error) {
	if kind := faas.KindOf(err); kind != faas.Invalid && kind != faas.TooLarge {
		t.Errorf("%q is refused with kind %q: %v", body, kind, err)
	}
}
