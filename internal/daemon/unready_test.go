package daemon_test

import (
	"strings"
	"testing"

	"hob/client"
	"hob/faas"
)

func TestFunctionThatIsNotKeptReadySaysWhy(t *testing.T) {
	n := run(t, faked)
	s := client.Settings{Image: ptr("hob.local/none:1"), Format: ptr("http"), Min: ptr(1)}
	if _, err := n.CreateFunction(t.Context(), faas.DefaultApp, "f", s, "later"); err != nil {
		t.Fatal(err)
	}
	until(t, "the reason is in the log", func() bool {
		return strings.Contains(n.said("f"), "not ready: a container that is to be kept (min 1) could not be started, and is tried again in 1s: the image hob.local/none:1 is not here yet: the first call pulls it")
	})
}
