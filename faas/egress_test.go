package faas_test

import (
	"strings"
	"testing"

	"hob/faas"
)

func TestRulesAreReadAndWritten(t *testing.T) {
	for text, want := range map[string]string{
		"api.example.com:443":      "",
		"API.example.com.:443":     "api.example.com:443",
		"*.example.com:443/tcp":    "",
		"10.0.0.0/8:5432":          "",
		"10.1.2.3:5000-6000/udp":   "",
		"10.1.2.3/32:53":           "10.1.2.3:53",
		"[fd00::1]:80":             "",
		"[fd00::/8]:*":             "",
		"db_1:5432":                "",
		"0.0.0.0/0:1-65535":        "",
		"xn--bcher-kva.example:80": "",
	} {
		if want == "" {
			want = text
		}
		r, err := faas.ParseEgressRule(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := r.String(); got != want {
			t.Errorf("%s is written %s, want %s", text, got, want)
		}
		if again, err := faas.ParseEgressRule(r.String()); err != nil || again != r {
			t.Errorf("%s is read again as %+v, %v; want %+v", text, again, err, r)
		}
	}
}

func TestBadRulesSayWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "names no port",
		"10.1.2.3":                           "names no port",
		"[fd00::1]":                          "names no port",
		"10.1.2.3:":                          `port ""`,
		"10.1.2.3:0":                         `port "0"`,
		"10.1.2.3:65536":                     "from 1 to 65535",
		"10.1.2.3:90-80":                     "go down",
		"fd00::1:80":                         "stands in brackets",
		"[fd00::1:80":                        "not closed",
		"[10.1.2.3]:80":                      "brackets are for IPv6",
		"10.1.2.3/8:80":                      "in the range 10.0.0.0/8",
		"10.0.0.0/33:80":                     "not a range",
		"10.1.2.300:80":                      "not an address",
		"[::ffff:10.1.2.3]:80":               "IPv4 one as such",
		"a..b:80":                            "neither a host name",
		"*.:80":                              "neither a host name",
		"ex*mple.com:80":                     "neither a host name",
		"a b:80":                             "neither a host name",
		"http://x:80":                        "it is a URL",
		"x:80/icmp":                          `protocol "icmp"`,
		":80":                                "neither a host name",
		strings.Repeat("a.", 127) + "com:80": "at most 253",
	} {
		if r, err := faas.ParseEgressRule(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want an error with %q", text, r, err, want)
		}
	}
	if _, err := faas.ParseEgress("public", nil); err == nil {
		t.Error("a mode that is none was taken")
	}
	if _, err := faas.ParseEgress("allow", make([]string, faas.MaxRules+1)); err == nil || !strings.Contains(err.Error(), "at most 64") {
		t.Errorf("too many rules: %v", err)
	}
}

func FuzzRule(f *testing.F) {
	for _, seed := range []string{"api.example.com:443", "10.0.0.0/8:5432/udp", "[fd00::/8]:1-2", "*.x:*"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := faas.ParseEgressRule(text)
		if err != nil {
			return
		}
		if again, err := faas.ParseEgressRule(r.String()); err != nil || again != r {
			t.Errorf("%q is %+v, written %q, read again as %+v, %v", text, r, r, again, err)
		}
	})
}
