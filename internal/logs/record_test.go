package logs

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"hob/faas"
)

func TestRecordsOfBeforeStartsTellWhetherTheSandboxWasThere(t *testing.T) {
	for rest, want := range map[string]faas.Start{
		`{"hot":true,"keep":true}`: faas.StartHot,
		`{"keep":true}`:            "",
		`{"start":"bare"}`:         faas.StartBare,
	} {
		c, err := recordKeys{id: []byte("01OLD"), rest: []byte(rest)}.call()
		if err != nil || c.Outcome.Start != want {
			t.Errorf("%s is read as %q, %v; want %q", rest, c.Outcome.Start, err, want)
		}
	}
}

func TestTextsOfARecordAreReadAsTheyWere(t *testing.T) {
	for _, text := range []string{"plain", "", `"quoted" \ and`, "two\nlines\t\x00", "ü…\u2028", "<&>", "\x7f", strings.Repeat("\x01", maxText)} {
		want := faas.Call{ID: "01ABC", Error: text, Waiting: text, Outcome: faas.Outcome{Exit: &faas.Exit{Signal: text, OOM: true}}}
		fr, _, err := parseFrame(appendRecord(nil, time.Now(), &want))
		if err != nil {
			t.Fatal(err)
		}
		k, ok := parseKeys(fr.rest)
		got, err := k.call()
		if !ok || err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%.40q: read as %.200v, %v, %v", text, got, ok, err)
		}
	}
}
