package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestQueuedCallTellsWhatItWaitsFor(t *testing.T) {
	const records = `{"calls":[
		{"id":"C2","app":"a","function":"f","state":"queued","waiting":"place 2 in the line of the function: it may run 1 call at once"},
		{"id":"C1","app":"a","function":"f","state":"succeeded","start":"on_demand","exit_code":0,"waiting":"place 1 in the line for 64 MB of memory"}]}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := records
		if r.URL.Path == "/api/calls/C1" {
			_, answer, _ = strings.Cut(records, "},")
			answer = strings.TrimSuffix(strings.TrimSpace(answer), "]}")
		}
		io.WriteString(w, answer)
	}))
	defer server.Close()
	for _, c := range []struct {
		args []string
		want []string // parts of one line
	}{
		{[]string{"calls"}, []string{"C2 ", " queued ", "  -  ", "place 2 in the line of the function: it may run 1 call at once\n"}},
		{[]string{"calls"}, []string{"C1 ", " succeeded ", " on demand ", " exit 0\n"}},
		{[]string{"calls", "inspect", "C1"}, []string{"waiting ", "place 1 in the line for 64 MB of memory\n"}},
		{[]string{"calls", "inspect", "C1"}, []string{"start ", "on demand\n"}},
	} {
		env, stdout, stderr := testEnv(map[string]string{"HOB_SERVER": server.URL}, "")
		if code := run(t.Context(), env, c.args); code != 0 {
			t.Fatalf("%q: exit code %d, %s", c.args, code, stderr)
		}
		found := false
		for line := range strings.Lines(stdout.String()) {
			all := true
			for _, part := range c.want {
				all = all && strings.Contains(line, part)
			}
			found = found || all
		}
		if !found {
			t.Errorf("%q: no line with %q in\n%s", c.args, c.want, stdout)
		}
	}
}
