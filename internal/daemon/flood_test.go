package daemon_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
	"hob/internal/config"
	"hob/internal/daemon"
	"hob/internal/testenv"
)

// TestLogFloodDrownsNobody has functions write to standard error as fast as they can,
// lines and a line without an end.
func TestLogFloodDrownsNobody(t *testing.T) {
	const limit = 2 * faas.MB
	var data string
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups)
	testenv.NothingLeft(t)
	rate := daemon.WithLogRate(faas.MB) // a slow machine floods with more than that, too
	n := runWith(t, []daemon.Option{rate}, func(c *config.Config) { data, c.LogPerFunction, c.LogTotal = c.Data, limit, 4*limit })
	image := n.gateImage()
	small := func(s *client.Settings) { s.Memory = ptr(32 * faas.MB) }
	n.function("quiet", image, small, "cat")
	ends := func(s *client.Settings) { small(s); s.Timeout = ptr(client.Duration(3 * time.Second)) }
	n.function("lines", image, ends, "flood", "a line of nothing but letters\n")
	n.function("endless", image, ends, "flood", "x")

	flooding, stop := context.WithCancel(t.Context())
	var floods sync.WaitGroup
	for _, name := range []string{"lines", "endless"} {
		floods.Go(func() {
			if _, err := n.call(name, nil); faas.KindOf(err) != faas.TimedOut {
				t.Errorf("%s: %v; want that it floods until its time is over", name, err)
			}
		})
	}
	go func() { floods.Wait(); stop() }()
	var most uint64
	calls := 0
	for flooding.Err() == nil {
		if out, err := n.call("quiet", strings.NewReader("hello")); err != nil || out != "hello" {
			t.Errorf("a neighbour: %q, %v", out, err)
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapInuse+m.StackInuse)
		calls++
	}
	t.Logf("%d calls of a neighbour; the process had %d MB at most", calls, most>>20)
	if most > 256<<20 { // of which a flood of this length is many times as much
		t.Errorf("the process had %d MB of memory in use", most>>20)
	}
	for _, name := range []string{"lines", "endless"} {
		until(t, "the log of "+name+" says what was dropped", func() bool { return strings.Contains(n.said(name), "over the limit of 1") })
	}
	var kept int64
	files, _ := filepath.Glob(filepath.Join(data, "logs/functions/*/*.seg"))
	for _, file := range files {
		st, err := os.Stat(file)
		if err != nil {
			continue // it was just removed
		}
		kept += st.Size()
	}
	if kept == 0 || kept > 3*int64(limit) {
		t.Errorf("%d bytes of lines are kept", kept)
	}
}
