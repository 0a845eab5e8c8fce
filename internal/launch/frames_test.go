package launch

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"hob/faas"
)

// split feeds parts to a splitter of frames of header X-Id and returns what each
// call has said, "" standing for none.
func split(f *frames, latest string, parts ...string) map[string]string {
	said := make(map[string]string)
	s := &splitter{
		frames: f,
		latest: func() *string { return &latest },
		say:    func(call *string, b []byte) { said[callOf(call)] += string(b) },
	}
	for _, p := range parts {
		s.feed([]byte(p))
	}
	s.end()
	return said
}

// expecting returns frames that have been told of calls with these values.
func expecting(values ...string) *frames {
	f := framesOf([]string{"A=1", "FN_LOGFRAME_NAME=FRAME", "FN_LOGFRAME_HDR=x-id"})
	for i, v := range values {
		req := &faas.Request{Call: fmt.Sprint("call", i+1), Header: http.Header{"X-Id": {v}}}
		if v == "" {
			req.Header = nil
		}
		f.expect(req)
	}
	return f
}

func TestFramesDivideTheOutput(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for _, tt := range []struct {
		name   string
		values []string
		out    string
		want   map[string]string
	}{
		{"of the kits for Go and Python", []string{"a", "b"}, "begin\n\nFRAME=a\none\n\nFRAME=b\ntwo\n",
			map[string]string{"latest": "begin\n", "call1": "one\n", "call2": "two\n"}},
		{"with another empty line, and twice, as for Java", []string{"a", "b"}, "\nFRAME=a\n\n\nFRAME=a\n\none\n\nFRAME=b\n\n\nFRAME=b\n\ntwo\n",
			map[string]string{"call1": "one\n", "call2": "two\n"}},
		{"behind a line without an end", []string{"a", "b"}, "\nFRAME=a\none\nFRAME=b\ntwo", map[string]string{"call1": "one\n", "call2": "two"}},
		{"at the very beginning", []string{"a"}, "FRAME=a\none\n", map[string]string{"call1": "one\n"}},
		{"at the very end", []string{"a", "b"}, "\nFRAME=a\none\n\nFRAME=b\n", map[string]string{"call1": "one\n"}},
		{"without an end", []string{"a", "b"}, "\nFRAME=a\none\n\nFRAME=b", map[string]string{"call1": "one\n"}},
		{"of nobody", []string{"a"}, "\nFRAME=a\none\n\nFRAME=c\n\nmore\n", map[string]string{"call1": "one\n\nFRAME=c\n\nmore\n"}},
		{"almost", []string{"a"}, "\nFRAME=a\nFRAMES\nFRAM\nFRAME=\nxFRAME=a\n FRAME=a\nFRAME=a \nFRAME=aa\nframe=a\nFR", map[string]string{"call1": "FRAMES\nFRAM\nFRAME=\nxFRAME=a\n FRAME=a\nFRAME=a \nFRAME=aa\nframe=a\nFR"}},
		{"between empty lines", []string{"a", "b"}, "\n\n\nFRAME=a\n\n\n\none\n\n\n\nFRAME=b\n\n", map[string]string{"latest": "\n\n", "call1": "\n\none\n\n\n"}},
		{"empty line at the end", []string{"a"}, "FRAME=a\none\n\n", map[string]string{"call1": "one\n\n"}},
		{"with a value that comes again", []string{"a", "a", "a"}, "\nFRAME=a\none\n\nFRAME=a\ntwo\n\nFRAME=a\nthree\n", map[string]string{"call1": "one\n", "call2": "two\n", "call3": "three\n"}},
		{"not of every call", []string{"a", "", "b"}, "\nFRAME=a\nof two\n\nFRAME=b\nthree\n", map[string]string{"call2": "of two\n", "call3": "three\n"}},
		{"of no call", []string{"", ""}, "one\n\nFRAME=\ntwo\n", map[string]string{"latest": "one\n\nFRAME=\ntwo\n"}},
		{"around long lines", []string{"a", "b"}, "\nFRAME=a\n" + long + "\n\nFRAME=b\nFRAME=" + long, map[string]string{"call1": long + "\n", "call2": "FRAME=" + long}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			check := func(parts ...string) {
				t.Helper()
				if got := split(expecting(tt.values...), "latest", parts...); fmt.Sprint(got) != fmt.Sprint(tt.want) {
					t.Errorf("in %d parts: got %.200q, want %.200q", len(parts), got, tt.want)
				}
			}
			check(tt.out)
			if len(tt.out) > 1<<10 {
				var parts []string
				for rest := tt.out; rest != ""; rest = rest[min(len(rest), 4<<10):] {
					parts = append(parts, rest[:min(len(rest), 4<<10)])
				}
				check(parts...)
				return
			}
			check(strings.Split(tt.out, "")...)
			for i := range tt.out {
				check(tt.out[:i], tt.out[i:])
			}
		})
	}
}

func TestSplitterHoldsBackNothingButAFrame(t *testing.T) {
	var said strings.Builder
	none := ""
	s := &splitter{frames: expecting("a"), latest: func() *string { return &none }, say: func(_ *string, b []byte) { said.Write(b) }}
	for _, tt := range []struct{ more, want string }{
		{"one\n", "one\n"},
		{"t", "one\nt"},
		{"wo", "one\ntwo"},
		{"\nFRA", "one\ntwo\n"},
		{"NCE", "one\ntwo\nFRANCE"},
		{"\n\n", "one\ntwo\nFRANCE\n"},
		{"\nx", "one\ntwo\nFRANCE\n\n\nx"},
		{"\nFRAME=" + strings.Repeat("y", maxFrame), "one\ntwo\nFRANCE\n\n\nx\n"},
		{"y", "one\ntwo\nFRANCE\n\n\nx\nFRAME=" + strings.Repeat("y", maxFrame+1)},
	} {
		if s.feed([]byte(tt.more)); said.String() != tt.want {
			t.Errorf("after %.20q: %q, want %q", tt.more, said.String(), tt.want)
		}
	}
}

func TestFramesKnowTheLatestCalls(t *testing.T) {
	f := expecting()
	for i := range 3 * framesKept {
		f.expect(&faas.Request{Call: fmt.Sprint("call", i+1), Header: http.Header{"X-Id": {fmt.Sprint("v", i+1)}}})
	}
	if len(f.calls) != framesKept || cap(f.calls) > 2*framesKept {
		t.Errorf("%d calls are kept, of a list of %d", len(f.calls), cap(f.calls))
	}
	got := split(f, "latest", fmt.Sprintf("\nFRAME=v1\nold\n\nFRAME=v%d\nfirst\n\nFRAME=v%d\nlast\n", 2*framesKept+1, 3*framesKept))
	want := map[string]string{"latest": "\nFRAME=v1\nold\n", fmt.Sprint("call", 2*framesKept+1): "first\n", fmt.Sprint("call", 3*framesKept): "last\n"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestValueOfAFrame(t *testing.T) {
	for _, tt := range []struct {
		header string
		set    http.Header
		want   string
	}{
		{"Fn-Call-Id", http.Header{"Fn-Call-Id": {"forged"}}, "CALL"},
		{"fn-call-id", nil, "CALL"},
		{"opc-request-id", http.Header{"Opc-Request-Id": {"first", "second"}}, "first"},
		{"X-Id", http.Header{"Fn-Http-H-X-Id": {"through a trigger"}}, "through a trigger"},
		{"X-Id", http.Header{"X-Id": {strings.Repeat("x", maxFrame+1)}}, ""},
		{"X-Id", nil, ""},
	} {
		f := framesOf([]string{"FN_LOGFRAME_HDR=" + tt.header, "FN_LOGFRAME_NAME=N"})
		call := f.expect(&faas.Request{Call: "CALL", Header: tt.set})
		if got := f.calls[0]; got.value != tt.want || got.call != call || *call != "CALL" {
			t.Errorf("%s of %v: %q of call %s, want %q", tt.header, tt.set, got.value, *call, tt.want)
		}
	}
	for _, env := range [][]string{nil, {"FN_LOGFRAME_NAME=N"}, {"FN_LOGFRAME_HDR=X"}, {"FN_LOGFRAME_NAME=", "FN_LOGFRAME_HDR=X"}, {"FN_LOGFRAME_NAME=N", "FN_LOGFRAME_HDR="}, {"FN_LOGFRAME_NAME=a\nb", "FN_LOGFRAME_HDR=X"}} {
		if framesOf(env) != nil {
			t.Errorf("%q asks for frames", env)
		}
	}
}
