//go:build !race

package protocol_test

import (
	"testing"

	"hob/faas"
)

const raceEnabled = false

func TestSmallExchangeCostsFewAllocations(t *testing.T) {
	call := smallCall(t, openProgram(t, faas.FormatHTTP, quick(hello)))
	call()
	const most = 6
	if n := testing.AllocsPerRun(500, call); n > most {
		t.Errorf("%v allocations, want at most %d", n, most)
	} else {
		t.Logf("%v allocations", n)
	}
}
