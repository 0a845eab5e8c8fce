package logs

import (
	"testing"

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
