package network

import (
	"testing"

	"go.uber.org/goleak"

	"hob/internal/testenv"
)

func TestWhatIsTriedIsRemoved(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.NetNS)
	goroutines := goleak.IgnoreCurrent()
	var before int
	for n := range 2 { // the first has the runtime open what it keeps
		if err := Try(); err != nil {
			t.Fatal(err)
		}
		goleak.VerifyNone(t, goroutines)
		if after := len(testenv.Descriptors()); n > 0 && after > before {
			t.Errorf("%d descriptors are open, before there were %d", after, before)
		} else {
			before = after
		}
	}
}
