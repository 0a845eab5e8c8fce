package core

import (
	"net/http"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/api"
)

func TestPreferences(t *testing.T) {
	for _, c := range []struct {
		name  string
		given []string
		async bool
		wait  time.Duration
		waits bool
		rest  string // for the function
	}{
		{"only", []string{"respond-async"}, true, 0, false, ""},
		{"in capitals", []string{"RESPOND-ASYNC, WAIT=7"}, true, 7 * time.Second, true, ""},
		{"in quotes", []string{`respond-async, wait="1\0"`}, true, 10 * time.Second, true, ""},
		{"with blanks", []string{"\t respond-async ,wait = 3 ,"}, true, 3 * time.Second, true, ""},
		{"on several lines", []string{"wait=5", "respond-async"}, true, 5 * time.Second, true, ""},
		{"twice, of which the first counts", []string{"wait=5, respond-async, wait=6, respond-async"}, true, 5 * time.Second, true, ""},
		{"with parameters", []string{"respond-async; a=b, wait=1; c"}, true, time.Second, true, ""},
		{"others beside it", []string{"handling=lenient, respond-async, return=minimal;q=\"a,b\", foo"}, true, 0, false, `handling=lenient, return=minimal;q="a,b", foo`},
		{"in the quotes of another", []string{`foo="respond-async, wait=9"`}, false, 0, false, ""},
		{"in quotes with quotes", []string{`foo="\", respond-async"`}, false, 0, false, ""},
		{"a longer word", []string{"respond-asynchronously"}, false, 0, false, ""},
		{"wait alone", []string{"wait=oops"}, false, 0, false, ""},
		{"nothing", []string{""}, false, 0, false, ""},
		{"garbage", []string{`,;=,"`, "=respond-async"}, false, 0, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := http.Header{"Prefer": c.given}
			a, err := askOf(h)
			if err != nil || a.async != c.async || a.wait != c.wait || a.waits != c.waits {
				t.Errorf("%q is %+v, %v", c.given, a, err)
			}
			if c.async && h.Get("Prefer") != c.rest {
				t.Errorf("%q: the function is given %q, want %q", c.given, h.Get("Prefer"), c.rest)
			}
			if !c.async && len(h["Prefer"]) != len(c.given) {
				t.Errorf("%q: the function is given %q", c.given, h["Prefer"])
			}
		})
	}
}

func TestHeadersOfACallThatAreOursDoNotReachTheFunction(t *testing.T) {
	h := http.Header{"Prefer": {"respond-async"}, api.HeaderPriority: {"4"}, api.HeaderDelay: {"1m"}, headerKey: {`"k"`}, "X-Own": {"a"}}
	a, err := askOf(h)
	if err != nil || a != (ask{async: true, priority: 4, delay: time.Minute, key: `"k"`}) {
		t.Errorf("%+v, %v", a, err)
	}
	if len(h) != 2 || h.Get("X-Own") != "a" || h.Get(headerKey) != `"k"` {
		t.Errorf("the function is given %v", h)
	}
	if a, err := askOf(http.Header{}); err != nil || a != (ask{delay: -1}) {
		t.Errorf("without headers: %+v, %v", a, err)
	}
}

// FuzzAsk holds that whatever is asked for is taken, or refused as Invalid.
func FuzzAsk(f *testing.F) {
	f.Add("respond-async, wait=5", "3", "10s", "key")
	f.Add(`respond-async;a="b\`, "", "-1s", "\x7f")
	f.Add(`wait="`, "9", "1h", `"8e03978e"`)
	f.Fuzz(func(t *testing.T, prefer, priority, delay, key string) {
		h := http.Header{"Prefer": {prefer}, api.HeaderPriority: {priority}, api.HeaderDelay: {delay}, headerKey: {key}}
		a, err := askOf(h)
		switch {
		case err != nil && faas.KindOf(err) != faas.Invalid:
			t.Errorf("kind %q: %v", faas.KindOf(err), err)
		case err == nil && (!a.async || a.wait < 0 || a.wait > maxWait || a.priority < 0 || a.priority > faas.MaxPriority || a.delay < 0 || a.delay > faas.MaxDelay || len(a.key) > api.MaxKey):
			t.Errorf("taken: %+v", a)
		}
	})
}
