package logs_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
	"hob/internal/logs"
)

// dialed is a store in a bubble of synctest, whose syslog servers are reached by dial.
func dialed(t *testing.T, dial func() (net.Conn, error)) *logs.Store {
	t.Helper()
	return open(t, logs.Config{Dir: t.TempDir(), Log: logTo(t.Output()), Syslog: to("tcp://server"), Dial: by(dial)})
}

// by is how any server is reached.
func by(dial func() (net.Conn, error)) func(context.Context, string, string, string) (net.Conn, error) {
	return func(context.Context, string, string, string) (net.Conn, error) { return dial() }
}

func TestServerThatTakesNothingHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var theirs []net.Conn
		s := dialed(t, func() (net.Conn, error) {
			c, ours := net.Pipe() // a write to it waits for a reader, and there is none
			theirs = append(theirs, c)
			return ours, nil
		})
		const lines = 3000
		for i := range lines {
			write(t, s, "f", "c", fmt.Sprintf("%d %s\n", i, strings.Repeat("x", 1000)))
		}
		dropped := s.SyslogDropped()
		if dropped < lines/3 || dropped == lines {
			t.Errorf("%d of %d lines dropped; want those that neither a queue of 1 MB holds nor what is being sent", dropped, lines)
		}
		time.Sleep(11 * time.Second) // the server's patience ends, and the log says so
		said := hobs(t, s)
		if want := fmt.Sprintf("… %d lines not sent to tcp://server: write pipe: i/o timeout", dropped); !slices.Equal(said, []string{want}) {
			t.Errorf("the log says %q, want %q", said, want)
		}
		s.Close() // returns
		if got := s.SyslogDropped(); got != lines {
			t.Errorf("%d lines dropped in the end, want all %d", got, lines)
		}
		for _, c := range theirs {
			c.Close()
		}
	})
}

// hobs returns the lines of hob in the log of f.
func hobs(t *testing.T, s *logs.Store) (said []string) {
	t.Helper()
	for _, line := range read(t, s, logs.Selection{Function: "f", Tail: -1}) {
		if line.Stream == "hob" {
			said = append(said, line.Text)
		}
	}
	return said
}

func TestDeadServerIsTriedLessAndLessAndThenGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var tries []time.Duration // guarded by mu
		begin := time.Now()
		s := dialed(t, func() (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			tries = append(tries, time.Since(begin))
			return nil, errors.New("nobody there")
		})
		write(t, s, "f", "c", "one\n")
		time.Sleep(9 * time.Minute)
		synctest.Wait()
		mu.Lock()
		if len(tries) < 50 || len(tries) > 70 || tries[1] != 100*time.Millisecond || tries[len(tries)-1]-tries[len(tries)-2] != 10*time.Second {
			t.Errorf("tries at %v; want the second after 100 ms, the last ones every 10 s", tries)
		}
		mu.Unlock()
		if got := logs.Destinations(s); got != 1 {
			t.Errorf("%d destinations before the end, want 1", got)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if got := logs.Destinations(s); got != 0 || s.SyslogDropped() != 1 {
			t.Errorf("%d destinations, %d lines dropped; want none, and 1", got, s.SyslogDropped())
		}
		want := []string{"… lines wait for tcp://server: nobody there", "… 1 line not sent to tcp://server: nobody there"}
		if said := hobs(t, s); !slices.Equal(said, want) {
			t.Errorf("the log says %q, want %q", said, want)
		}
	})
}

func TestConnectionThatIsNotUsedIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := make(chan net.Conn, 10)
		s := dialed(t, func() (net.Conn, error) {
			theirs, ours := net.Pipe()
			conns <- theirs
			return ours, nil
		})
		for i := range 3 { // each time over a new connection
			write(t, s, "f", "c", "one\n")
			write(t, s, "g", "c", "two\n")
			c := <-conns
			from := bufio.NewReader(c)
			if a, b := next(t, from), next(t, from); a.text != "one" || b.text != "two" {
				t.Errorf("got %q and %q", a.text, b.text)
			}
			if got := logs.Destinations(s); got != 1 {
				t.Errorf("%d destinations for one server, want 1", got)
			}
			time.Sleep(61 * time.Second)
			synctest.Wait()
			if got := logs.Destinations(s); got != 0 {
				t.Errorf("%d destinations after a minute without a line, want none", got)
			}
			if _, err := from.ReadByte(); err == nil {
				t.Errorf("time %d: the connection goes on", i)
			}
			c.Close()
		}
	})
}

func TestServerThatNobodyHasLinesForIsLeftAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := 0
		conns := make(chan net.Conn, 10)
		s := open(t, logs.Config{Dir: t.TempDir(), Log: logTo(t.Output()), Syslog: func(id string) logs.Source {
			if id == "stays" {
				return logs.Source{Syslog: "tcp://server0"}
			}
			return logs.Source{Syslog: fmt.Sprint("tcp://server", server)}
		}, Dial: by(func() (net.Conn, error) {
			theirs, ours := net.Pipe()
			conns <- theirs
			return ours, nil
		})})
		var readers []*bufio.Reader
		for ; server < 4; server++ {
			write(t, s, "goes", "c", "one\n")
			c := <-conns
			defer c.Close()
			from := bufio.NewReader(c)
			if next(t, from); server == 0 {
				write(t, s, "stays", "c", "two\n")
				next(t, from)
			}
			readers = append(readers, from)
		}
		for _, left := range readers[1:3] {
			if _, err := left.ReadByte(); err == nil {
				t.Error("the connection goes on")
			}
		}
		synctest.Wait()
		if got := logs.Destinations(s); got != 2 {
			t.Errorf("%d destinations, want that of who stays and the latest", got)
		}
	})
}

func TestServerIsDialledForEachOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs, ours := net.Pipe()
		s := open(t, logs.Config{Dir: t.TempDir(), Log: logTo(t.Output()), Syslog: func(id string) logs.Source {
			return logs.Source{Syslog: "tcp://server", Owner: id}
		}, Dial: func(_ context.Context, owner, network, address string) (net.Conn, error) {
			if owner != "may" {
				return nil, fmt.Errorf("%s %s is closed", network, address)
			}
			return ours, nil
		}})
		write(t, s, "may", "c", "one\n")
		write(t, s, "f", "c", "two\n")
		write(t, s, "may", "c", "three\n")
		from := bufio.NewReader(theirs)
		for _, want := range []string{"one", "three"} {
			if m := next(t, from); m.text != want {
				t.Errorf("got %q, want %q", m.text, want)
			}
		}
		synctest.Wait()
		if said, want := hobs(t, s), "… lines wait for tcp://server: tcp server:514 is closed"; !slices.Equal(said, []string{want}) {
			t.Errorf("the log says %q, want %q", said, want)
		}
		theirs.Close()
	})
}

func TestLinesThatWaitForTheRuleOfAnAppFlowWhenItIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs, ours := net.Pipe()
		var owner atomic.Value // of f alone
		owner.Store("")
		s := open(t, logs.Config{Dir: t.TempDir(), Log: logTo(t.Output()), Syslog: func(id string) logs.Source {
			from := logs.Source{Syslog: "tcp://server"}
			if id == "f" {
				from.Owner = owner.Load().(string)
			}
			return from
		}, Dial: func(_ context.Context, owner, _, _ string) (net.Conn, error) {
			if owner == "" {
				return nil, faas.Errorf(faas.Denied, "closed")
			}
			return ours, nil
		}})
		for range 3 { // some are being sent, the others wait, between those of another function
			write(t, s, "f", "c", "one\ntwo\n")
			write(t, s, "other", "c", "its own\n")
			synctest.Wait()
		}
		owner.Store("shop.2")
		write(t, s, "f", "c", "new\n")
		from := bufio.NewReader(theirs)
		for _, want := range []string{"new", "one", "two", "one", "two", "one", "two"} {
			if m := next(t, from); m.text != want {
				t.Errorf("got %q, want %q", m.text, want)
			}
		}
		synctest.Wait()
		if said, want := hobs(t, s), "… lines wait for tcp://server: closed"; !slices.Equal(said, []string{want}) || s.SyslogDropped() != 0 {
			t.Errorf("the log says %q, %d lines dropped; want %q and none", said, s.SyslogDropped(), want)
		}
		s.Close()
		if got := s.SyslogDropped(); got != 3 {
			t.Errorf("%d lines dropped in the end, want the 3 of the other function", got)
		}
		theirs.Close()
	})
}

func TestLinesForAServerThatPolicyRefusesAreCountedWhenTheirAppChanges(t *testing.T) {
	for name, c := range map[string]struct {
		then logs.Source
		want []string
	}{
		"its rules": {logs.Source{Syslog: "tcp://server", Owner: "shop.2"}, []string{
			"… lines wait for tcp://server: nobody there", "… lines wait for tcp://server: closed", "… 3 lines not sent to tcp://server: closed",
		}},
		"its server": {logs.Source{Syslog: "tcp://open", Owner: "shop.2"}, []string{
			"… lines wait for tcp://server: nobody there", "… 2 lines not sent to tcp://server: closed",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				theirs, ours := net.Pipe()
				var now atomic.Pointer[logs.Source]
				now.Store(&logs.Source{Syslog: "tcp://server", Owner: "shop.1"})
				s := open(t, logs.Config{Dir: t.TempDir(), Log: logTo(t.Output()), Syslog: func(string) logs.Source { return *now.Load() },
					Dial: func(_ context.Context, _, _, address string) (net.Conn, error) {
						switch {
						case address == "open:514":
							return ours, nil
						case now.Load().Owner == "shop.1":
							return nil, errors.New("nobody there")
						}
						return nil, faas.Errorf(faas.Denied, "closed")
					}})
				write(t, s, "f", "c", "one\ntwo\n")
				synctest.Wait()
				now.Store(&c.then)
				write(t, s, "f", "c", "three\n")
				if c.then.Syslog == "tcp://open" {
					if m := next(t, bufio.NewReader(theirs)); m.text != "three" {
						t.Errorf("got %q", m.text)
					}
				}
				time.Sleep(12 * time.Minute)
				synctest.Wait()
				said := hobs(t, s)
				if !slices.Equal(said, c.want) || logs.Destinations(s) != 0 {
					t.Errorf("the log says %q, and there are %d destinations; want %q and none", said, logs.Destinations(s), c.want)
				}
				if want := fmt.Sprintf("… %d lines", s.SyslogDropped()); !strings.HasPrefix(said[len(said)-1], want) {
					t.Errorf("%d lines dropped, the log says %q", s.SyslogDropped(), said)
				}
				theirs.Close()
			})
		})
	}
}

func TestServersOverTheMostGetNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := 0
		s := open(t, logs.Config{Dir: t.TempDir(), Log: logTo(t.Output()), Syslog: func(string) logs.Source {
			server++
			return logs.Source{Syslog: fmt.Sprint("tcp://server", server)}
		}, Dial: by(func() (net.Conn, error) { return nil, errors.New("nobody is there") })})
		for range 1003 {
			write(t, s, "f", "c", "line\n")
		}
		synctest.Wait()
		if got := logs.Destinations(s); got != 1000 || s.SyslogDropped() != 3 {
			t.Errorf("%d destinations and %d lines dropped, want 1000 and 3", got, s.SyslogDropped())
		}
		said := slices.DeleteFunc(hobs(t, s), func(text string) bool { return !strings.Contains(text, "not sent") })
		if want := "… lines are not sent to tcp://server1001: there are lines for 1000 other syslog servers, and no more at once"; !slices.Equal(said, []string{want}) {
			t.Errorf("the log says %q, want %q", said, want)
		}
		time.Sleep(11 * time.Minute) // those are given up
		if got := logs.Destinations(s); got != 0 {
			t.Errorf("%d destinations, want none", got)
		}
	})
}

func TestCloseSendsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs, ours := net.Pipe()
		s := dialed(t, func() (net.Conn, error) { return ours, nil })
		for i := range 1000 {
			write(t, s, "f", "c", fmt.Sprintln(i))
		}
		closed := make(chan error)
		go func() { closed <- s.Close() }()
		from := bufio.NewReader(theirs)
		for i := range 1000 {
			if m := next(t, from); m.text != fmt.Sprint(i) {
				t.Fatalf("got %q, want %d", m.text, i)
			}
		}
		if err := <-closed; err != nil || s.SyslogDropped() != 0 {
			t.Errorf("Close = %v, %d lines dropped", err, s.SyslogDropped())
		}
		write(t, s, "f", "c", "late\n") // goes nowhere, and does nothing
		theirs.Close()
	})
}

func TestMessageThatWasCutOffIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := make(chan net.Conn, 10)
		s := dialed(t, func() (net.Conn, error) {
			theirs, ours := net.Pipe()
			conns <- theirs
			return ours, nil
		})
		write(t, s, "f", "c", "one\n")
		c := <-conns
		if m := next(t, bufio.NewReader(c)); m.text != "one" {
			t.Errorf("got %q", m.text)
		}
		write(t, s, "f", "c", "two\nthree\n")
		c.Read(make([]byte, 10))
		c.Close()
		c = <-conns
		from := bufio.NewReader(c)
		if a, b := next(t, from), next(t, from); a.text != "two" || b.text != "three" {
			t.Errorf("got %q and %q", a.text, b.text)
		}
		c.Close()
	})
}
