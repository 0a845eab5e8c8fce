package daemon_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"hob/client"
	"hob/faas"
	"hob/internal/config"
	"hob/internal/daemon"
	"hob/internal/testenv"
)

func TestLogIsReadAroundADamagedPlace(t *testing.T) {
	var data string
	n := start(t, func(c *config.Config) { data = c.Data })
	n.function("f", n.gateImage(), nil, "log", "50")
	call := n.enqueue("f", "")
	n.ended(call.ID)
	read := func() string { return n.ask("GET", "/api/apps/default/functions/f/logs", "").body }
	until(t, "the end of the call is in the log", func() bool { return strings.Contains(read(), `"FINISHED"`) })
	before := read()
	segments, err := filepath.Glob(filepath.Join(data, "logs/functions/*/*.seg"))
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	f, err := os.OpenFile(segments[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	whole, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(whole, []byte("line 25 "))
	if _, err := f.WriteAt([]byte("xx"), int64(at)); err != nil {
		t.Fatal(err)
	}
	after := read()
	for i := range 50 {
		if has := strings.Contains(after, fmt.Sprintf("line %d -", i)); has != (i != 25) {
			t.Errorf("line %d is there: %t", i, has)
		}
	}
	if !strings.Contains(after, "damaged") || strings.Count(after, `"event"`) != strings.Count(before, `"event"`) {
		t.Errorf("the loss is not named, or events are missing: %s", after)
	}
	if a := n.ask("GET", "/api/apps/default/functions/f/logs?call="+call.ID+"&tail=1", ""); a.status != 200 || !strings.Contains(a.body, `"FINISHED"`) {
		t.Errorf("the last line of the call: %+v", a)
	}
}

func TestFollowerThatNeverReadsHoldsNobodyUp(t *testing.T) {
	n := start(t)
	n.function("f", n.gateImage(), nil, "log", "500")
	lazy, err := net.Dial("tcp", n.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer lazy.Close()
	lazy.(*net.TCPConn).SetReadBuffer(1 << 10)
	fmt.Fprintf(lazy, "GET /api/apps/default/functions/f/logs?follow=true HTTP/1.1\r\nHost: %s\r\n\r\n", n.addr)
	ctx, stop := context.WithTimeout(t.Context(), 2*long)
	defer stop()
	var connected, followers sync.WaitGroup
	for range 99 {
		connected.Add(1)
		followers.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+n.addr+"/api/apps/default/functions/f/logs?follow=true", nil)
			resp, err := http.DefaultTransport.RoundTrip(req)
			connected.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			count := 0
			lines := bufio.NewScanner(resp.Body)
			for lines.Scan() {
				if count++; strings.Contains(lines.Text(), `"FINISHED"`) {
					return
				}
			}
			t.Errorf("a follower read %d lines, and never the end of the call: %v", count, lines.Err())
		})
	}
	connected.Wait()
	if out, err := n.call("f", nil); out != "" || err != nil {
		t.Errorf("call = %q, %v", out, err)
	}
	n.ended(n.enqueue("f", "").ID)
	followers.Wait()
	if out, err := n.call("f", nil); out != "" || err != nil {
		t.Errorf("call = %q, %v", out, err)
	}
	n.stop() // within its grace
}

func TestEventsAreOfAsynchronousCallsAndPayloadsArePrivate(t *testing.T) {
	n := start(t)
	image := n.gateImage()
	n.function("private", image, nil, "cat")
	n.function("public", image, func(s *client.Settings) { s.LogPayload = ptr(true) }, "cat")
	for _, name := range []string{"private", "public"} {
		if _, err := n.say(name, "plain secret"); err != nil {
			t.Error(err)
		}
		call := n.enqueue(name, "asynchronous secret")
		n.ended(call.ID)
		read := func() string { return n.ask("GET", "/api/apps/default/functions/"+name+"/logs", "").body }
		until(t, "the end of the call is in the log", func() bool { return strings.Contains(read(), `"FINISHED"`) })
		text := read()
		if strings.Count(text, `"event"`) != 4 || strings.Contains(text, "plain secret") {
			t.Errorf("%s: %s, want 4 events of the asynchronous call", name, text)
		}
		want := 0
		if name == "public" {
			want = 4 // in an event and in its text, twice
		}
		if got := strings.Count(text, "asynchronous secret"); got != want {
			t.Errorf("%s: the payload is %d times in the log, want %d: %s", name, got, want, text)
		}
		if text := n.ask("GET", "/api/apps/default/functions/"+name+"/logs?events=false", "").body; text != "" {
			t.Errorf("%s: without events: %s", name, text)
		}
	}
}

func TestLogIsRotatedWithItsEvents(t *testing.T) {
	n := start(t, func(c *config.Config) { c.LogPerFunction = faas.MB })
	n.function("f", n.gateImage(), nil, "log", "1000")
	first, last := n.enqueue("f", "").ID, ""
	n.ended(first)
	for range 4 {
		last = n.enqueue("f", "").ID
		n.ended(last)
	}
	const path = "/api/apps/default/functions/f/logs"
	until(t, "the last end is in the log", func() bool {
		return strings.Contains(n.ask("GET", path+"?call="+last+"&tail=5", "").body, `"FINISHED"`)
	})
	all := n.ask("GET", path, "")
	if size := len(all.body); all.status != 200 || size > 3<<20 || strings.Contains(all.body, first) {
		t.Errorf("%d bytes of log, want 1 MB of lines, and none of the first call", size)
	}
	if a := n.ask("GET", path+"?call="+first, ""); a.status != 200 || strings.Contains(a.body, `"line`) {
		t.Errorf("the log of the first call: %d, %d bytes", a.status, len(a.body))
	}
	if a := n.ask("GET", path+"?tail=1", ""); strings.Count(a.body, "\n") != 1 {
		t.Errorf("one line: %q", a.body)
	}
	if a := n.ask("GET", path+"?tail=0", ""); a.status != 200 || a.body != "" {
		t.Errorf("no line: %+v", a)
	}
}

func TestNoisyFunctionIsLimitedAndTheLossIsNamed(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups)
	testenv.NothingLeft(t)
	n := runWith(t, []daemon.Option{daemon.WithLogRate(faas.MB)}) // a slow machine writes more than that, too
	n.function("f", n.gateImage(), func(s *client.Settings) { s.Memory = ptr(128 * faas.MB) }, "log", "80000")
	call := n.enqueue("f", "").ID
	if c := n.ended(call); c.State != faas.CallSucceeded {
		t.Errorf("%+v", c)
	}
	var text string
	until(t, "the end is in the log", func() bool {
		text = n.ask("GET", "/api/apps/default/functions/f/logs", "").body
		return strings.Contains(text, `"FINISHED"`)
	})
	lines := strings.Count(text, `"line `)
	if !strings.Contains(text, "lines dropped: over the limit of 1 MB a second") || lines == 80000 || lines < 1000 {
		t.Errorf("%d lines are kept, and the log says: %s", lines, text[max(0, len(text)-600):])
	}
}
